"""Which GPUs a run may have, which one it gets, whether it has bfloat16, and its peak; by a driver that is made up."""

import json
import sys
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pynvml as real
import pytest
import torch
from support.jobs import plan_of, train_options

from clp_core.checkpoints.loading import weights_type
from clp_core.environment.gpus import Gpu, cuda_environment, list_gpus
from clp_core.errors import InputError
from clp_core.jobs import JobStore
from clp_core.jobs.device_queue import DeviceQueue
from clp_core.playground.memory_placement import Needs, Place
from clp_core.training import device_choice
from clp_core.training.device_choice import TrainingDevice, find_device, has_fast_bf16, mean_peak
from clp_core.training.main import note_precision, settled_precision
from clp_core.training.peaks import peak_flops
from clp_core.training.plan import emulated_warning

H100, T4 = "NVIDIA H100 80GB HBM3", "Tesla T4"


@dataclass
class Part:
    """A card or a slice of a made-up driver."""

    name: str
    uuid: str
    capability: tuple[int, int] = (9, 0)
    free: int = 40 << 30
    slices: list = field(default_factory=list)
    is_lost: bool = False
    has_memory: bool = True


class Driver:
    """What is used of pynvml, of cards that are made up."""

    NVMLError, NVMLError_NotSupported = real.NVMLError, real.NVMLError_NotSupported
    NVMLError_NotFound = real.NVMLError_NotFound

    def __init__(self, *cards):
        self.cards = cards

    def nvmlInit(self):  # noqa: N802
        if not self.cards:
            raise self.NVMLError(real.NVML_ERROR_DRIVER_NOT_LOADED)

    def nvmlShutdown(self):  # noqa: N802
        pass

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if self.cards[index].is_lost:
            raise self.NVMLError(real.NVML_ERROR_GPU_IS_LOST)
        return self.cards[index]

    def nvmlDeviceGetCudaComputeCapability(self, card):  # noqa: N802
        return list(card.capability)

    def nvmlDeviceGetMemoryInfo(self, card):  # noqa: N802
        if not card.has_memory:
            raise self.NVMLError_NotSupported(real.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(free=card.free, total=80 << 30)

    def nvmlDeviceGetName(self, card):  # noqa: N802
        return card.name

    def nvmlDeviceGetUUID(self, card):  # noqa: N802
        return card.uuid

    def nvmlDeviceGetMigMode(self, card):  # noqa: N802
        if card.name == T4:
            raise self.NVMLError_NotSupported(real.NVML_ERROR_NOT_SUPPORTED)
        return [int(bool(card.slices)), int(bool(card.slices))]

    def nvmlDeviceGetMaxMigDeviceCount(self, card):  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, card, number):  # noqa: N802
        if number >= len(card.slices) or card.slices[number] is None:
            raise self.NVMLError_NotFound(real.NVML_ERROR_NOT_FOUND)
        return card.slices[number]


UUIDS = ["GPU-8932f937-d72c", "GPU-8932aaaa-0000", "GPU-55550000-1111", "GPU-77770000-2222"]
FOUR = [Part(H100, uuid) for uuid in UUIDS]
SLICED = Part(
    "NVIDIA A100-SXM4-40GB",
    "GPU-sliced",
    (8, 0),
    slices=[
        Part("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "MIG-1111", free=4 << 30),
        None,
        Part("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "MIG-2222", free=19 << 30),
    ],
)


@pytest.fixture
def driver(monkeypatch, workspace):
    """Replace the driver and the variable."""

    def put(*cards, visible=None):
        monkeypatch.setitem(sys.modules, "pynvml", Driver(*cards))
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return put


def by_torch() -> list[int]:
    """Return what torch leaves of four cards, by its own reading of the variable."""
    entries = torch.cuda._parse_visible_devices()
    if entries and isinstance(entries[0], str):
        return torch.cuda._transform_uuid_to_ordinals(entries, UUIDS)
    return entries[: next((i for i, number in enumerate(entries) if number >= len(UUIDS)), len(entries))]


VARIABLES = [
    None, "", " ", "-1", "0", "3,1", " 3 , 1 ", "0,-1,2", "0,9,1", "9", "0,0", "1,2,1", "+2", "2gpu,1", "x", "0,,1",
    "0,x,1", "GPU-8932f937", "GPU-8932f937-d72c", "GPU-8932", "GPU-7,GPU-5", "GPU-5,GPU-nothing,GPU-7",
    "GPU-5,GPU-5555", "GPU-5,1", "1,GPU-5", "GPU-", "8932f937", "GPU-5, GPU-7", "NoDevFiles", "99999999999999999999",
]  # fmt: skip


@pytest.mark.parametrize("variable", VARIABLES)
def test_the_variable_leaves_the_gpus_that_torch_sees_in_its_order(driver, variable):
    driver(*FOUR, visible=variable)
    assert [gpu.index for gpu in list_gpus()] == by_torch()


@pytest.mark.parametrize(
    ("wanted", "names"),
    [("auto", (3, 1)), ("cuda", (3, 1)), ("cuda:1", (1,)), ("cuda:1,3,1", (1, 3))],
)
def test_a_run_gets_the_visible_cards_by_their_numbers_in_the_drivers_list(driver, wanted, names):
    driver(*FOUR, visible="3,1")
    assert find_device(wanted).names == tuple(f"cuda:{number}" for number in names)


def test_hidden_and_absent_gpus_are_named_with_those_there_are(driver):
    driver(*FOUR, visible="3,1")
    with pytest.raises(InputError, match=r"no GPU 0 here; CUDA_VISIBLE_DEVICES=3,1 leaves cuda:3, cuda:1 \("):
        find_device("cuda:0,1")
    driver(*FOUR)
    with pytest.raises(InputError, match="no GPU 7 here; there are cuda:0, cuda:1, cuda:2, cuda:3"):
        find_device("cuda:7")
    driver(*FOUR, visible="")
    with pytest.raises(InputError, match="no GPU is visible: CUDA_VISIBLE_DEVICES= leaves none; use --device cpu"):
        find_device("cuda")
    assert find_device("auto").kind == "cpu"


def test_a_machine_with_amd_gpus_is_told_that_they_cannot_be_used(driver, monkeypatch, tmp_path):
    driver()
    monkeypatch.setattr(device_choice, "AMD_DRIVER", tmp_path / "none")
    with pytest.raises(InputError, match=r"^no NVIDIA GPU is found; use"):
        find_device("cuda")
    monkeypatch.setattr(device_choice, "AMD_DRIVER", tmp_path)
    with pytest.raises(InputError, match="cannot use AMD GPUs"):
        find_device("cuda")


def test_a_lost_card_is_passed_over_and_the_others_keep_their_numbers(driver):
    driver(replace(FOUR[0], is_lost=True), FOUR[1], visible="0,1")
    assert [gpu.index for gpu in list_gpus()] == [1]


def test_a_card_without_memory_of_its_own_has_the_machines(driver):
    driver(Part("NVIDIA GB10", "GPU-a", (12, 1), has_memory=False))
    assert list_gpus()[0].total_bytes == device_choice.psutil.virtual_memory().total


def job_on(workspace, device, name="a run"):
    job, _ = JobStore(workspace.jobs).create("project", {"name": name}, ["-c", ""], "clp project", devices=[device])
    return DeviceQueue.of_this_machine().enter(job.path, [device])


def test_runs_on_one_card_see_each_other_however_the_variable_names_it(driver, workspace):
    queue = DeviceQueue.of_this_machine()
    ahead = []
    for variable in ("2,0", "GPU-5555", None):
        driver(*FOUR, visible=variable)
        names = find_device("cuda:2").names
        assert names == ("cuda:2",)
        assert [ticket.devices for ticket in queue.ahead(names)] == ahead
        ahead.append(job_on(workspace, names[0], f"under {variable}").devices)


def test_slices_are_used_one_at_a_time_by_their_uuid_and_without_a_peak(driver, workspace):
    driver(SLICED)
    assert [gpu.device for gpu in list_gpus()] == ["cuda:MIG-1111", "cuda:MIG-2222"]
    chosen = find_device("cuda:0")
    assert (chosen.names, chosen.count, chosen.free_bytes) == (("cuda:MIG-2222",), 1, 19 << 30)
    assert mean_peak(chosen, bf16=True) is None
    assert has_fast_bf16(chosen)
    job_on(workspace, "cuda:MIG-2222")
    assert find_device("auto").names == ("cuda:MIG-1111",)
    driver(SLICED, FOUR[0])
    assert find_device("auto").names == ("cuda:1",)
    for variable, names in (("MIG-22", ["MIG-2222"]), ("MIG-2,MIG-1", ["MIG-2222", "MIG-1111"]), ("MIG-9", [])):
        driver(SLICED, FOUR[0], visible=variable)
        assert [gpu.uuid for gpu in list_gpus()] == names


def test_the_processes_of_a_run_see_its_cards_in_its_order():
    assert cuda_environment(("cuda:3", "cuda:1")) == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that CUDA's numbers are those of the driver's list
        "CUDA_VISIBLE_DEVICES": "3,1",
    }


def test_torch_is_shown_the_slice_or_the_card_that_was_taken(monkeypatch):
    for device, shown in (("cuda:MIG-2222", "MIG-2222"), ("cuda:3", "3"), ("cpu", "")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        Place(device, "a card").hide_others()
        assert device_choice.os.environ["CUDA_VISIBLE_DEVICES"] == shown
        assert device_choice.os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


# bfloat16


@pytest.mark.parametrize(
    ("capability", "has_it"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 6), True), ((12, 0), True)]
)
def test_plan_and_run_agree_on_bfloat16(driver, monkeypatch, capability, has_it):
    driver(Part("a card", "GPU-a", capability))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(major=capability[0]))
    assert has_fast_bf16(find_device("auto")) == torch.cuda.is_bf16_supported(including_emulation=False) == has_it
    assert weights_type("cuda") == ("auto" if has_it else torch.float32)
    assert weights_type("cpu") == torch.float32


def test_of_several_kinds_of_gpus_all_must_have_bfloat16_and_a_peak(driver):
    driver(Part(H100, "GPU-a"), Part(T4, "GPU-b", (7, 5)))
    mixed = find_device("auto")
    assert (mixed.name, has_fast_bf16(mixed)) == (f"{H100} and {T4}", False)
    assert mean_peak(mixed, bf16=False) == (67e12 + 8.1e12) / 2
    assert mean_peak(mixed, bf16=True) is None
    assert has_fast_bf16(find_device("cuda:0"))


def test_the_plan_of_an_old_gpu_is_float32_and_warns_where_bfloat16_is_chosen(driver, pair, texts):
    driver(Part(T4, "GPU-a", (7, 5)))
    plans = {
        wanted: plan_of(train_options(pair, texts, precision=wanted), pair[0]) for wanted in ("auto", "bf16", "float32")
    }
    assert [(wanted, result.bf16) for wanted, result in plans.items()] == [
        ("auto", False),
        ("bf16", True),
        ("float32", False),
    ]
    warnings = {choice: [w for w in result.warnings if "bfloat16" in w] for choice, result in plans.items()}
    assert warnings["auto"] == warnings["float32"] == []
    assert warnings["bf16"] == [f"--precision bf16: {emulated_warning(T4)}"]
    assert (plans["auto"].peak_flops, plans["bf16"].peak_flops) == (8.1e12, None)


class Alone:
    """The processes of a run, of which this is the only one, or another says yes."""

    def __init__(self, *, other=False):
        self.other = other

    def any(self, said):
        return said or self.other


def test_a_run_on_a_cluster_falls_back_to_float32_where_torch_finds_no_bfloat16(driver, pair, texts, monkeypatch):
    cluster = train_options(pair, texts, launcher="slurm", gpus_per_node=1)
    planned = plan_of(cluster, pair[0])
    assert planned.bf16
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: T4)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    result, warning = settled_precision(planned, cluster, Alone())
    assert (result.bf16, warning) == (False, "Tesla T4 has no bfloat16: products are in float32")
    chosen = replace(cluster, precision="bf16")
    result, warning = settled_precision(planned, chosen, Alone())
    assert (result.bf16, "emulates it" in warning) == (True, True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert settled_precision(planned, cluster, Alone()) == (planned, "")
    assert not settled_precision(planned, cluster, Alone(other=True))[0].bf16
    on_cpu = replace(planned, device="cpu")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert settled_precision(on_cpu, cluster, Alone()) == (on_cpu, "")


@pytest.mark.parametrize("minutes", [0.0, 5.0])
def test_readers_of_a_run_learn_that_it_fell_back_to_float32(workspace, pair, texts, minutes):
    planned = plan_of(train_options(pair, texts, precision="bf16", max_minutes=minutes), pair[0])
    job, _ = JobStore(workspace.jobs).create("train", {}, ["-c", ""], "clp train", plan=planned.to_json())
    note_precision(job, planned)
    assert job.plan == json.loads(json.dumps(planned.to_json()))
    note_precision(job, replace(planned, bf16=False))
    assert job.plan["bf16"] == bool(minutes)  # a run by time has no settled plan yet
    assert job.plan["steps"] == planned.steps


def test_a_playground_counts_float32_weights_on_gpus_without_bfloat16():
    needs = Needs(("a",), 2, 4)
    assert [needs.bytes_on(Gpu(0, "a", 9, 9, capability=capability)) for capability in ((7, 5), (8, 0), None)] == [
        4,
        2,
        2,
    ]


# Peaks


@pytest.mark.parametrize(
    ("name", "bf16", "float32"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 67),
        ("NVIDIA H100 PCIe", 756, 51),
        ("NVIDIA H100 NVL", 835, 60),
        ("NVIDIA H200", 989, 67),
        ("NVIDIA H200 NVL", 835, 60),
        ("NVIDIA H800", 989, 67),
        ("NVIDIA H800 PCIe", 756, 51),
        ("NVIDIA H20", None, None),
        ("NVIDIA GH200 480GB", 989, 67),
        ("NVIDIA B200", 2250, None),
        ("NVIDIA GB200", 2500, None),
        ("NVIDIA B300 SXM6 AC", None, None),
        ("NVIDIA GB300", None, None),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA A100-PCIE-40GB", 312, 19.5),
        ("NVIDIA A100 80GB PCIe", 312, 19.5),
        ("NVIDIA A800-SXM4-80GB", 312, 19.5),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA L40", 181, 90.5),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA A10G", 70, 31.5),
        ("NVIDIA A10", 125, 31.2),
        ("NVIDIA RTX A6000", 154.8, 38.7),
        ("NVIDIA RTX 6000 Ada Generation", 364, 91.1),
        ("NVIDIA GeForce RTX 5090", 209.5, 104.8),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA GeForce RTX 3090 Ti", 80, 40),
        ("Tesla T4", None, 8.1),
        ("NVIDIA Tesla T4", None, 8.1),
        ("Tesla V100-SXM2-16GB", None, 15.7),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA GeForce RTX 4090 D", None, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA A100-SXM-64GB", None, None),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", None, None),
        ("NVIDIA GeForce GTX 1080", None, None),
        ("GRID A100X-4C", None, None),
        ("CPU, 2 cores", None, None),
        ("", None, None),
    ],
)
def test_peaks_are_those_of_the_data_sheets_or_missing(name, bf16, float32):
    result = [peak_flops(name, bf16=is_half) for is_half in (True, False)]
    assert result == [None if tera is None else 1e12 * tera for tera in (bf16, float32)]


def test_a_device_of_unknown_gpus_has_no_peak():
    assert (
        mean_peak(TrainingDevice("cuda", "2 machines with 4 GPUs each, through Slurm", (), 0, 2, 8), bf16=True) is None
    )

"""What the page Train shows beside its form: the plan, its rates, its cost, and its warnings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st

from clp_core.figures import schedule_figure
from clp_core.training.device_choice import TrainingDevice
from clp_core.training.options import TrainOptions
from clp_core.training.plan import TrainPlan, early_steps
from components.messages import cards, number, plain, share, size

SHARDING = {"none": "one process", "ddp": "each holds the model (DDP)", "fsdp": "each holds a part (FSDP2)"}


def answer(chosen: TrainPlan, device: TrainingDevice, speeds: list[float]) -> str:
    """Say in a sentence what the run does and how long it takes, at the pace of earlier runs where there are any."""
    stages = chosen.schedule.stages
    order = (
        f", {stages[0].name} first" if len(stages) > 1 else f", {stages[0].name}" if stages[0].body_rate == 0 else ""
    )
    place = f"on {plain(device.name)}"
    if chosen.minutes:
        tokens = [60 * chosen.minutes * speed for speed in speeds]
        fit = f"about {span(tokens, 0)} tokens at the pace of earlier runs" if tokens else "how many is not known yet"
        return f"As many steps as fit into **{number(chosen.minutes, 1)}** minutes{order}, {place}: {fit}."
    done = f"**{number(chosen.steps)}** steps over **{number(chosen.tokens)}** tokens{order}, {place}"
    minutes = [chosen.tokens / speed / 60 for speed in speeds]
    if not minutes:
        return f"{done}: no run of this size was measured yet, so the time is not known."
    runs = "run" if len(minutes) == 1 else f"{len(minutes)} runs"
    pace = f"at the pace of the last {runs}, evaluations included"
    return f"{done}: about **{span(minutes, 1)} minutes** {pace}."


def span(values: list[float], digits: int) -> str:
    """Return the range of some values, or one of them where they are near each other."""
    low, high = min(values), max(values)
    return number(low, digits) if high < 1.2 * low else f"{number(low, digits)} to {number(high, digits)}"


def show_warnings(chosen: TrainPlan) -> None:
    """Show what should be known before the run is paid for."""
    for told in chosen.warnings:
        st.warning(plain(f"{told[:1].upper()}{told[1:]}."), icon=":material/warning:")


def show_cards(chosen: TrainPlan, device: TrainingDevice) -> None:
    """Show what the run costs."""
    passes = "passes over the text not known" if chosen.epochs is None else f"{number(chosen.epochs, 1)} passes"
    if chosen.minutes:
        cards(dict.fromkeys(("Tokens", "Steps"), ("–", "settled by the first steps of the run")))
    else:
        cards({"Tokens": (number(chosen.tokens), f"{passes} over the text"), "Steps": (number(chosen.steps), "")})
    cards(
        {
            "Memory": (
                size(chosen.memory_bytes),
                "of each process: weights, optimiser, activations and logits, estimated; Python and libraries come on "
                "top. "
                + (f"{size(device.free_bytes)} can be had on {device.name}" if device.free_bytes else "Not checked"),
            ),
            "Disk": (size(chosen.disk_bytes), "for the checkpoints that are kept and the one being written"),
        }
    )


def show_rates(chosen: TrainPlan) -> None:
    """Draw the rates by step, where the steps are known."""
    if chosen.minutes:
        st.caption("The rates by step follow once the first steps have settled how many there are.")
        return
    st.plotly_chart(schedule_figure(chosen.schedule), key="rates", alt=f"Rates by step: {chosen.schedule.told}")


def evaluations_told(options: TrainOptions, chosen: TrainPlan) -> str:
    """Return in words after which steps a run is scored."""
    early = ", ".join(map(str, early_steps(chosen.eval_every, options.early_evals)))
    return f"every {number(chosen.eval_every)} steps" + (f", before that at {early}" if early else "")


def show_facts(
    options: TrainOptions, chosen: TrainPlan, device: TrainingDevice, speeds: list[float], place: str
) -> None:
    """Show every setting that was chosen, and the run's place in the queue."""
    kept = f"the last {number(options.keep_last)}" + ("" if options.only_last else " and the best")
    is_open = bool(chosen.minutes)
    facts = {
        "parameters": number(chosen.parameters),
        "schedule": " then ".join(stage.name for stage in chosen.schedule.stages) if is_open else chosen.schedule.told,
        "tokens a step": f"{number(chosen.step_tokens)} ({chosen.step_blocks} blocks of {number(chosen.block_length)})",
        "at once": f"{chosen.micro_blocks} blocks on each process",
        "products in": "bfloat16" if chosen.bf16 else "float32",
        "devices": ", ".join(chosen.devices) or device.name,
        "processes": f"{chosen.processes}, {SHARDING[chosen.sharding]}",
        "activations": "computed twice, to save memory" if chosen.checkpointing else "kept",
        "compiled": "by torch.compile" if chosen.compiled else "no",
        "evaluation": "twelve in the run" if is_open else evaluations_told(options, chosen),
        "teacher": Path(chosen.teacher).name or "none",
        "checkpoints": f"{'at them' if is_open else f'every {number(chosen.save_every)} steps'}, {kept} are kept",
        "work": "–" if is_open else f"{number(chosen.flops_per_token * chosen.tokens / 1e15, 3)} 10^15 operations",
        "measured pace": ", ".join(number(speed, 0, "tokens/s") for speed in speeds) or "–",
        "place in the queue": place,
    }
    if speeds and chosen.peak_flops:
        best = max(speeds) * chosen.flops_per_token / (chosen.peak_flops * chosen.processes)
        facts["share of the device's peak"] = f"{share(best)} at that pace"
    st.table(pd.DataFrame(facts.items(), columns=["setting", "planned"]).set_index("setting"))

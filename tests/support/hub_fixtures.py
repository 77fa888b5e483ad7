"""Fixtures of a Hub on this machine."""

import pytest

from support.hub import use_hub
from support.hub_server import TOKEN, HubServer
from support.tiny_models import make_model

BIG = 12 << 20


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture
def online(hub, tmp_path, monkeypatch):
    """The Hub is the server, for the libraries in this process as for every process that is started."""
    from huggingface_hub import close_session

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    use_hub(
        monkeypatch,
        HF_ENDPOINT=hub.endpoint,
        HF_HUB_OFFLINE="0",
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    yield tmp_path / "hf"
    close_session()


@pytest.fixture
def logged_in(online):
    online.mkdir(parents=True, exist_ok=True)
    (online / "token").write_text(TOKEN)


@pytest.fixture(scope="session")
def big_model(tmp_path_factory, tokenizers):
    """A model whose weights are fetched in two parts."""
    folder = tmp_path_factory.mktemp("big") / "model"
    rows = BIG // (4 * 64)
    make_model(folder, tokenizers["byte-level", "en"], "llama", width=64, rows=rows, seed=3)
    assert (folder / "model.safetensors").stat().st_size > BIG
    return folder

"""Options of ``clp app``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from clp_core.options import Options, option


@dataclass(frozen=True)
class AppOptions(Options):
    """Where the web app answers."""

    COMMAND: ClassVar[tuple[str, ...]] = ("app",)

    port: int = option(8501, help="port on the loopback address", minimum=1, maximum=65535)
    headless: bool = option(False, help="open no browser")
    address: str = option("127.0.0.1", help="address to answer on; another than the loopback one needs [auth]")
    host: tuple[str, ...] = option((), help="name under which browsers reach that address")

"""The report: what a person reads of ``gpu.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MARKS = {
    "passed": "ok",
    "met": "ok",
    "failed": "FAILED",
    "missed": "MISSED",
    "skipped": "skipped",
    "incomplete": "INCOMPLETE",
}


def report_of(content: Mapping[str, Any]) -> str:
    """Return the report in Markdown.

    Args:
        content: what ``gpu.json`` holds.
    """
    machine = content["machine"]
    told = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    lines = [
        f"# GPU proof{' in miniature' if content['smoke'] else ''}",
        "",
        f"{machine['gpu'] or 'No GPU'}; {machine['cores']} cores; {told}",
        "",
        "| item | result | seconds | CPU seconds | limit |",
        "|---|---|---:|---:|---:|",
    ]
    items = content["items"].values()
    lines += [
        f"| {item['title']} | {item['status']} | {item['seconds']:.1f} | {item['cpu_seconds']:.1f} "
        f"| {item['limit_s']:.0f} |"
        for item in items
    ]
    for item in items:
        lines += ["", f"## {item['title']}: {item['status']}", ""]
        lines += [f"Error: {item['error']}", ""] if item["error"] else []
        lines += [
            f"- {MARKS[check['verdict']]}: {name}{': ' if check['detail'] else ''}{check['detail']}"
            for name, check in item["checks"].items()
        ]
        for table in item["figures"].get("tables", []):
            lines += ["", table]
    return "\n".join(lines) + "\n"

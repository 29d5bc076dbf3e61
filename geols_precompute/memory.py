"""How much memory this process can still have: of the machine, of its control groups, by its own limit."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP, _MACHINE = Path("/proc/self/cgroup"), Path("/proc/meminfo")


def free_memory() -> int | None:
    """Return how many bytes this process can still have; None where the system does not say it (Linux does).

    A container or a job of a cluster has a control group, whose limit may be far below what the machine has.
    """
    free = list(_free_of_groups())
    with suppress(OSError, LookupError, ValueError):
        values = _numbers(_MACHINE)
        free.append((values["MemAvailable:"] + values.get("SwapFree:", 0)) * 1024)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    with suppress(OSError, LookupError, ValueError):
        if limit != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            free.append(limit - pages * resource.getpagesize())
    return max(0, min(free)) if free else None


def _free_of_groups() -> Iterator[int]:
    """Yield what is left in every control group that this process is in, of version 2 or 1, up to the root."""
    try:
        memberships = [line.split(":", 2) for line in _MEMBERSHIP.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (parts for parts in memberships if len(parts) == 3):
        if not controllers:
            root, limit, used = _GROUPS, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit, used = _GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # a container sees its own group as the root, under whatever path the host knows it
        group = root / path.lstrip("/")
        for place in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            # a group without a limit says "max"; files in memory that can be written back count as free
            with suppress(OSError, LookupError, ValueError):
                most, taken = (int((place / name).read_text()) for name in (limit, used))
                yield most - taken + _numbers(place / "memory.stat").get("inactive_file", 0)


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file that has one per line, after its name."""
    return {words[0]: int(words[1]) for line in path.read_text().splitlines() if len(words := line.split()) > 1}

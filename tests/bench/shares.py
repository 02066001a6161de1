"""A fifth of a processor for each of several servers: what each of them would have on a machine with as many processors as servers.

On two processors four servers cannot show what they take side by side. With equal shares that together are less than what there is,
everything is slower by the same factor, and the ratios are those of a machine with a processor for each. Needs the cgroups of Linux
(`cpu`, version 1 or 2) and the right to make them.
"""

import contextlib
import os

from measure import tree

PERIOD_MICROSECONDS = 10_000
QUOTA_MICROSECONDS = 2_000


def write(path, text):
    """Writes a file of the kernel's."""
    with open(path, "w", encoding="ascii") as file:
        file.write(str(text))


def hierarchy():
    """Where groups are made, where this process is at present, and whether it is version 1."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        lines = [line.strip().split(":", 2) for line in file]
    for _, controllers, path in lines:
        if "cpu" in controllers.split(","):
            root = "/sys/fs/cgroup/cpu" if os.path.isdir("/sys/fs/cgroup/cpu") else "/sys/fs/cgroup/cpu,cpuacct"
            return root, root + path, True
    path = next(path for number, _, path in lines if number == "0")
    return "/sys/fs/cgroup", "/sys/fs/cgroup" + path, False


def join(group, pid):
    """Moves a process and its descendants; those that have just ended are let go."""
    for member in tree(pid):
        with contextlib.suppress(ProcessLookupError):
            write(os.path.join(group, "cgroup.procs"), member)


@contextlib.contextmanager
def of_a_fifth(pids):
    """Each of these process trees has its share within; whether that was possible."""
    made, home = [], None
    try:
        root, home, first_version = hierarchy()
        if not first_version:
            write(os.path.join(root, "cgroup.subtree_control"), "+cpu")
        for pid in pids:
            group = os.path.join(root, f"gavel-bench-{pid}")
            os.mkdir(group)
            made.append((group, pid))
            if first_version:
                write(os.path.join(group, "cpu.cfs_period_us"), PERIOD_MICROSECONDS)
                write(os.path.join(group, "cpu.cfs_quota_us"), QUOTA_MICROSECONDS)
            else:
                write(os.path.join(group, "cpu.max"), f"{QUOTA_MICROSECONDS} {PERIOD_MICROSECONDS}")
            join(group, pid)
        possible = True
    except (OSError, StopIteration) as problem:
        print(f"no shares of processors: {problem}", flush=True)
        possible = False
    try:
        yield possible
    finally:
        for group, pid in made:
            with contextlib.suppress(OSError):
                join(home, pid)
                os.rmdir(group)

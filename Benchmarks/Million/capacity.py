"""How many connections this machine can hold, both ends of each, and which limit says so."""

import os
import resource
import socket
from dataclasses import dataclass
from pathlib import Path

# Measured by this benchmark with 200,000 connections, and rounded up: see Benchmarks/Results.
KERNEL_BYTES_PER_CONNECTION = 10_500  # both sockets, their inodes and files, and both epoll entries
SERVER_BYTES_PER_CONNECTION = 700
CLIENT_BYTES_PER_CONNECTION = 40
SERVER_BYTES = 12 << 20  # of a process without connections
CLIENT_BYTES = 2 << 20
REDIS_BYTES = 256 << 20
# What is left to everybody else on the machine.
RESERVED_SHARE = 0.1
RESERVED_BYTES_MIN = 1 << 30

DESCRIPTORS_PER_PROCESS_MAX = 20_000
CONNECTIONS_PER_PROCESS_MAX = 18_000
DESCRIPTORS_PER_PROCESS_RESERVED = 500
SOURCES = 252  # 127.0.0.2 and following
# Of each client process: the kernel takes ports of one parity first, and finding one of the others takes long.
SOURCES_PER_CLIENT = 2
THREADS_PER_PAIR = 12  # of a server with Swift's pool, and a client
# One publication that nobody has read yet: 100 bytes, in the kernel's smallest buffer and its head.
UNREAD_BYTES = 1_280


@dataclass
class Limit:
    name: str
    found: str
    connections: int


def number(path):
    return int(Path(path).read_text().split()[0])


def numbers(path):
    return [int(word) for word in Path(path).read_text().split()]


def memory():
    """The kernel's figures in bytes, by name."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines}


def control_group_memory():
    """What the control group still grants; None without a limit."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            folder = Path("/sys/fs/cgroup") / ("memory" if controllers else "") / path.lstrip("/")
            try:
                text = (folder / limit).read_text().strip()
                # Version 1 writes a number near 2^63 for none.
                if text != "max" and int(text) < 1 << 60:
                    return int(text) - number(folder / used)
            except (OSError, ValueError):
                continue
    return None


def conntrack_is_on():
    """Whether the kernel keeps an entry for each connection over loopback: then a new one adds to the count."""
    count = Path("/proc/sys/net/netfilter/nf_conntrack_count")
    if not count.exists():
        return False
    before = number(count)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname()), listener.accept()[0]:
            return number(count) > before


def per_process():
    """Connections that one process may hold."""
    descriptors = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], DESCRIPTORS_PER_PROCESS_MAX)
    return max(0, min(descriptors - DESCRIPTORS_PER_PROCESS_RESERVED, CONNECTIONS_PER_PROCESS_MAX))


def bytes_per_connection(each):
    """Of memory, with its share of two processes that hold so many."""
    own = KERNEL_BYTES_PER_CONNECTION + SERVER_BYTES_PER_CONNECTION + CLIENT_BYTES_PER_CONNECTION + UNREAD_BYTES
    return own + (SERVER_BYTES + CLIENT_BYTES) / each


def limits():
    """All of them; the one that allows the fewest connections binds."""
    each = per_process()
    if each == 0:
        return [Limit("descriptors of a process", "too few", 0)]
    figures = memory()
    available = figures["MemAvailable"]
    where = "available"
    granted = control_group_memory()
    if granted is not None and granted < available:
        available, where = granted, "left to the control group"
    reserved = max(RESERVED_BYTES_MIN, int(figures["MemTotal"] * RESERVED_SHARE))
    usable = max(0, available - reserved - REDIS_BYTES)
    found = [
        Limit(
            "memory",
            f"{available / 2**30:.1f} GiB {where}, {reserved / 2**30:.1f} GiB reserved, "
            f"{bytes_per_connection(each):,.0f} bytes per connection",
            int(usable / bytes_per_connection(each)),
        )
    ]
    used, _, descriptors = numbers("/proc/sys/fs/file-nr")
    found.append(Limit("fs.file-max", f"{descriptors:,}, two per connection", (descriptors - used) // 2))
    first, last = numbers("/proc/sys/net/ipv4/ip_local_port_range")
    # Not all of one parity: others use some, and the search for one of the last is long too.
    ports = int((last - first + 1) / 2 * 0.8) * SOURCES_PER_CLIENT
    found.append(
        Limit(
            "descriptors and ports of a process",
            f"{each:,} connections, {ports:,} ports to one server, {SOURCES // SOURCES_PER_CLIENT} clients",
            min(each, ports) * (SOURCES // SOURCES_PER_CLIENT),
        )
    )
    watches = number("/proc/sys/fs/epoll/max_user_watches")
    found.append(Limit("fs.epoll.max_user_watches", f"{watches:,}, two per connection", watches // 2))
    pages = numbers("/proc/sys/net/ipv4/tcp_mem")[2]
    tcp = pages * os.sysconf("SC_PAGE_SIZE")
    found.append(Limit("net.ipv4.tcp_mem", f"{tcp / 2**30:.1f} GiB of unread data", tcp // UNREAD_BYTES))
    processes = [number("/proc/sys/kernel/pid_max"), number("/proc/sys/kernel/threads-max")]
    user = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if user != resource.RLIM_INFINITY:
        processes.append(user)
    threads = min(processes) - len([name for name in os.listdir("/proc") if name.isdigit()])
    found.append(Limit("processes and threads", f"{threads:,}", threads // THREADS_PER_PAIR * each))
    if conntrack_is_on():
        entries = number("/proc/sys/net/netfilter/nf_conntrack_max")
        free = entries - number("/proc/sys/net/netfilter/nf_conntrack_count")
        found.append(Limit("nf_conntrack_max", f"{entries:,} entries, one per connection", free))
    return found

"""Tests what the benchmark with a million connections makes of a machine's limits: which one binds, and that nothing above it is begun."""

import contextlib
import pathlib
import re
import resource
import subprocess
import sys
import unittest
from unittest import mock

MILLION = pathlib.Path(__file__).resolve().parents[2] / "Benchmarks" / "Million"
sys.path.insert(0, str(MILLION))
import capacity

GIB = 1 << 30
# A machine that is big in every way, but for what a test takes away.
NUMBERS = {
    "/proc/sys/fs/file-nr": [1_000, 0, 100_000_000],
    "/proc/sys/net/ipv4/ip_local_port_range": [1_024, 65_535],
    "/proc/sys/fs/epoll/max_user_watches": [100_000_000],
    "/proc/sys/net/ipv4/tcp_mem": [0, 0, 100_000_000],
    "/proc/sys/kernel/pid_max": [4_194_304],
    "/proc/sys/kernel/threads-max": [4_194_304],
    "/proc/sys/net/netfilter/nf_conntrack_max": [100_000_000],
    "/proc/sys/net/netfilter/nf_conntrack_count": [0],
}


@contextlib.contextmanager
def machine(available=1000 * GIB, granted=None, descriptors=1_048_576, processes=resource.RLIM_INFINITY, conntrack=False, **numbers):
    """One whose kernel says these numbers; `numbers` by the last part of a file's name, with `_` for `-`."""
    given = dict(NUMBERS)
    for name, value in numbers.items():
        path = next(path for path in NUMBERS if path.rsplit("/", 1)[1].replace("-", "_") == name)
        given[path] = value
    limits = {resource.RLIMIT_NOFILE: (1_024, descriptors), resource.RLIMIT_NPROC: (processes, processes)}
    with contextlib.ExitStack() as stack:
        for name, value in {
            "number": lambda path: given[path][0],
            "numbers": lambda path: given[path],
            "memory": lambda: {"MemAvailable": available, "MemTotal": available},
            "control_group_memory": lambda: granted,
            "conntrack_is_on": lambda: conntrack,
        }.items():
            stack.enter_context(mock.patch.object(capacity, name, value))
        stack.enter_context(mock.patch.object(capacity.resource, "getrlimit", limits.get))
        stack.enter_context(mock.patch.object(capacity.os, "listdir", lambda _: ["1", "2", "self"]))
        yield


def binding():
    return min(capacity.limits(), key=lambda limit: limit.connections)


class CapacityTests(unittest.TestCase):
    def test_binding_limit(self):
        """Whatever a machine has least of binds, at the number that can be counted by hand."""
        cases = {
            "memory": (dict(available=8 * GIB), None),
            "fs.file-max": (dict(file_nr=[200, 0, 100_200]), 50_000),
            "fs.epoll.max_user_watches": (dict(max_user_watches=[60_000]), 30_000),
            "net.ipv4.tcp_mem": (dict(tcp_mem=[0, 0, 3_125]), 3_125 * capacity.os.sysconf("SC_PAGE_SIZE") // 1_280),
            "nf_conntrack_max": (dict(conntrack=True, nf_conntrack_max=[65_536], nf_conntrack_count=[536]), 65_000),
            # Two processes are there already; a pair of processes has twelve threads and 18,000 connections.
            "processes and threads": (dict(processes=26), 2 * 18_000),
            # 2,000 descriptors but for 500, and 126 clients.
            "descriptors and ports of a process": (dict(descriptors=2_000), 1_500 * 126),
            "descriptors of a process": (dict(descriptors=400), 0),
        }
        for name, (lack, connections) in cases.items():
            with self.subTest(name), machine(**lack):
                limit = binding()
                self.assertEqual(limit.name, name)
                if connections is not None:
                    self.assertEqual(limit.connections, connections)

    def test_ports(self):
        """Few local ports bind where descriptors would do for more: of one parity alone, and not all of these."""
        with machine(ip_local_port_range=[50_000, 59_999]):
            self.assertEqual(binding().connections, 4_000 * 2 * 126)

    def test_memory_fits(self):
        """So many connections take no more than is available, less what is reserved; and one more would."""
        for available in (2 * GIB, 8 * GIB, 24 * GIB, 100 * GIB):
            with self.subTest(available), machine(available=available):
                limit = next(limit for limit in capacity.limits() if limit.name == "memory")
                reserved = max(capacity.RESERVED_BYTES_MIN, int(available * capacity.RESERVED_SHARE))
                usable = available - reserved - capacity.REDIS_BYTES
                each = capacity.bytes_per_connection(capacity.per_process())
                self.assertLessEqual(limit.connections * each, usable)
                self.assertGreater((limit.connections + 1) * each, usable)

    def test_no_memory(self):
        """Less than what is reserved is none, not less than none."""
        with machine(available=GIB // 2):
            self.assertEqual((binding().name, binding().connections), ("memory", 0))

    def test_control_group(self):
        """What the control group grants binds if it is less than what is available, and only then."""
        with machine(available=100 * GIB, granted=8 * GIB):
            self.assertIn("8.0 GiB left to the control group", binding().found)
            less = binding().connections
        with machine(available=100 * GIB, granted=200 * GIB):
            limit = next(limit for limit in capacity.limits() if limit.name == "memory")
            self.assertIn("100.0 GiB available", limit.found)
            self.assertGreater(limit.connections, less)

    def test_per_process(self):
        """Never more than the benchmark's own bounds, however many descriptors a process may have."""
        for descriptors, connections in ((1_048_576, 18_000), (20_000, 18_000), (10_000, 9_500), (500, 0), (100, 0)):
            with self.subTest(descriptors), machine(descriptors=descriptors):
                self.assertEqual(capacity.per_process(), connections)


class DryRunTests(unittest.TestCase):
    """Of this machine. Without programs: to start one would fail with another sentence."""

    def run_million(self, *arguments):
        return subprocess.run(
            [sys.executable, MILLION / "million.py", "--programs", "/nowhere", *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    def test_dry_run(self):
        result = self.run_million("--dry-run")
        self.assertEqual((result.stderr, result.returncode), ("", 0))
        rows = re.findall(r"^  (\S.*?) +([\d,]+)   \S", result.stdout, re.MULTILINE)
        name, connections = re.search(r"The limit that binds: (.*), ([\d,]+) connections\.", result.stdout).groups()
        # The first row, and the least.
        self.assertEqual(rows[0], (name, connections))
        self.assertEqual(int(connections.replace(",", "")), min(int(count.replace(",", "")) for _, count in rows))

    def test_too_many(self):
        """Neither a dry run nor a real one begins with more than fits."""
        for arguments in (["--dry-run"], []):
            with self.subTest(arguments):
                result = self.run_million("100000000", *arguments)
                self.assertEqual(result.returncode, 1)
                self.assertEqual(result.stderr, "100,000,000 connections are more than this machine can hold; nothing was started.\n")
                self.assertNotIn("starting", result.stdout)

    def test_too_few(self):
        result = self.run_million("10", "--dry-run")
        self.assertEqual(result.returncode, 2)
        self.assertIn("fewer than 1000 connections tell nothing", result.stderr)


if __name__ == "__main__":
    unittest.main()

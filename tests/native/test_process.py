"""What needs a process of its own: instruction sets, threads, fork and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("xconv._native", reason="the compiled core is not built")

from xconv import _native

from .case import Case, assert_right

HERE = Path(__file__).parent


def python(code: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def case(n: int = 12, size: int = 60, kernel: int = 7) -> Case:
    rng = np.random.default_rng(0)
    x, w = (
        rng.standard_normal((n, 1, 1, size, size)),
        rng.standard_normal((1, 1, 1, kernel, kernel)),
    )
    output = (size - kernel + 1,) * 2
    return Case(x, w, "float64", 2, output, (1, 1), (1, 1), (0, 0))


@pytest.mark.parametrize("isa", _native.isas())
def test_every_instruction_set(isa: str) -> None:
    code = (
        "from xconv import _native; import pytest, sys; "
        f"assert _native.isa() == {isa!r}; "
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(HERE / 'test_direct.py')!r}]))"
    )
    done = python(code, timeout=600, XCONV_ISA=isa)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_an_unknown_instruction_set_is_named() -> None:
    done = python("from xconv import _native; _native.isa()", XCONV_ISA="mmx")
    assert done.returncode != 0
    assert 'XCONV_ISA is "mmx"' in done.stderr
    assert _native.isas()[-1] in done.stderr


def test_number_of_threads_from_the_environment() -> None:
    code = "from xconv import _native; print(_native.cpu_count())"
    assert python(code, XCONV_NUM_THREADS="3").stdout.strip() == "3"
    assert 1 <= _native.cpu_count() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_affinity_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from xconv import _native; print(_native.cpu_count())"
    )
    environment = {"XCONV_NUM_THREADS": ""}
    assert python(code, **environment).stdout.strip() == "1"


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two CPUs and their affinity",
)
def test_a_thread_leaves_the_cpu_of_the_caller() -> None:
    code = """
import os, numpy, xconv

def run():
    xconv.convolve(x, k, method="direct", workers=2)

def tasks():
    return set(map(int, os.listdir("/proc/self/task")))

x, k, before = numpy.ones((50, 100, 100)), numpy.ones((11, 11)), tasks()
run()
(thread,) = tasks() - before
caller = os.getpid()
for _ in range(100):  # the caller may itself move before it runs the loop
    cpu = int(open(f"/proc/self/task/{caller}/stat").read().rpartition(")")[2].split()[36])
    os.sched_setaffinity(thread, [cpu])
    run()
    if os.sched_getaffinity(thread) != {cpu}:
        break
assert os.sched_getaffinity(thread) == os.sched_getaffinity(caller) - {cpu}
"""
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_threads_at_once() -> None:
    problem = case()
    right = problem.run()
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            if not np.array_equal(problem.run(workers=3), right):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []
    assert_right(problem, right)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="Python with its global lock"
)
def test_the_global_lock_stays_off() -> None:
    """Importing a module that does not say that it can do without turns it on."""
    code = "import sys, xconv; from xconv import _native; print(sys._is_gil_enabled())"
    done = python(code, PYTHON_GIL="")
    assert (done.stdout, done.stderr) == ("False\n", "")


FORK = """
import multiprocessing, sys, threading
sys.path.insert(0, {here!r})
from case import Case
import numpy as np
rng = np.random.default_rng(0)
problem = Case(rng.standard_normal((12, 1, 1, 60, 60)), rng.standard_normal((1, 1, 1, 7, 7)),
               "float64", 2, (54, 54), (1, 1), (1, 1), (0, 0))
right = problem.run(workers=4)

def child(queue):
    queue.put(all(np.array_equal(problem.run(workers=4), right) for _ in range(5)))

def main():
    busy = True
    def spin():
        while busy:
            problem.run(workers=4)
    thread = threading.Thread(target=spin)
    thread.start()
    context = multiprocessing.get_context("fork")
    for _ in range(4):
        queue = context.SimpleQueue()
        process = context.Process(target=child, args=(queue,))
        process.start()
        assert queue.get()
        process.join(30)
        assert process.exitcode == 0
    busy = False
    thread.join()
    assert np.array_equal(problem.run(workers=4), right)
    print("survived")
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork on Windows")
def test_fork_while_the_pool_works() -> None:
    done = python(FORK.format(here=str(HERE)), timeout=120)
    assert done.stdout.strip() == "survived", done.stderr[-2000:]


INTERRUPT = """
import sys, time
sys.path.insert(0, {here!r})
from case import Case
import numpy as np
problem = Case(np.zeros((40, 1, 1, 700, 700)), np.ones((1, 1, 1, 63, 63)),
               "float64", 2, (638, 638), (1, 1), (1, 1), (0, 0))
out = np.zeros(problem.y_shape)
small = Case(np.ones((1, 1, 1, 9, 9)), np.ones((1, 1, 1, 2, 2)), "float64", 2, (8, 8), (1, 1),
             (1, 1), (0, 0))
print("ready", flush=True)
try:
    problem.run(out=out, workers={workers})
    print("finished")
except KeyboardInterrupt:
    print("interrupted")
assert (small.run(workers=2) == 4).all()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c(workers: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPT.format(here=str(HERE), workers=workers)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # well into the run, which takes many seconds
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert rest == "interrupted\n"
    assert process.returncode == 0

"""Forks of a process that has multiplied by several threads."""

from __future__ import annotations

import torch

from tests.processes import HANGS, forked, run_program


def product() -> int:
    return int((torch.ones(600, 600) @ torch.ones(600, 600))[0, 0] != 600)


def several_threads_then_a_fork() -> None:
    torch.set_num_threads(2)
    product()
    with forked(product) as process:
        assert process.wait(timeout=HANGS) == 0


def test_a_fork_of_several_threads_multiplies() -> None:
    """In a process of its own, whose threads are more than a worker's one."""
    program = "from tests.test_processes import several_threads_then_a_fork as run; run(); print('done')"
    assert run_program(program) == "done\n"

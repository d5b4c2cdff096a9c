"""The stack machine: steps, their loop and its reverse, the operator that wraps both, and the executors."""

from spinn_tensor.machine.executors import run_forest as run_forest
from spinn_tensor.machine.executors import run_given as run_given

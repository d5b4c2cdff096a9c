"""The stack machine: how a batch of trees is run, forward and backward. README.md here explains it from the start."""

from spinn_tensor.machine.any_cell_operators import DrawError as DrawError
from spinn_tensor.machine.executors import Parse as Parse
from spinn_tensor.machine.executors import forcing_noise as forcing_noise
from spinn_tensor.machine.executors import logistic_noise as logistic_noise
from spinn_tensor.machine.executors import run_forest as run_forest
from spinn_tensor.machine.executors import run_given as run_given
from spinn_tensor.machine.executors import run_own as run_own
from spinn_tensor.machine.executors import run_taught as run_taught
from spinn_tensor.machine.operators import ScoreError as ScoreError

"""Training: settings and presets, the loop, evaluation, checkpoints that resume exactly.

config      RunConfig = data + encoder + classifier + training settings
presets     named settings
corpora     files -> vocabulary and columns
hardware    memory that is kept between steps, and what torch.compile needs of the machine
objective   the loss of a batch, the function that --compile compiles
reinforce   the loss of RL-SPINN
methods     which batch and which loss a step has
optimizer   RMSprop, learning-rate decay, clipping
capture     steps as CUDA graphs
step        one optimisation step, in the precision of the run
feeding     batches that a thread makes ahead
distributed several processes that train one model
loop        epochs, evaluations, checkpoints, early stopping
evaluate    scores of a model on a corpus
checkpoint  weights in safetensors, strict reading
resume      what else a killed run needs
run         all of it, from settings to results
"""

from spinn_tensor.bundle import CheckpointConfig as CheckpointConfig
from spinn_tensor.inference import predict_probabilities as predict_probabilities
from spinn_tensor.inference import predict_transitions as predict_transitions
from spinn_tensor.model.classifiers import Checkpoint as Checkpoint
from spinn_tensor.model.classifiers import load_checkpoint as load_checkpoint
from spinn_tensor.tensor_files import CheckpointError as CheckpointError
from spinn_tensor.training.checkpoint import save_checkpoint as save_checkpoint
from spinn_tensor.training.config import DataConfig as DataConfig
from spinn_tensor.training.config import RunConfig as RunConfig
from spinn_tensor.training.config import TrainingConfig as TrainingConfig
from spinn_tensor.training.evaluate import Evaluation as Evaluation
from spinn_tensor.training.evaluate import Scores as Scores
from spinn_tensor.training.evaluate import evaluate as evaluate
from spinn_tensor.training.loop import TrainingError as TrainingError
from spinn_tensor.training.objective import training_loss as training_loss
from spinn_tensor.training.presets import PRESETS as PRESETS
from spinn_tensor.training.presets import run_config as run_config
from spinn_tensor.training.run import execute as execute

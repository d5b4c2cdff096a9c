"""Training: settings and presets, the loop, evaluation, checkpoints that resume exactly.

From a batch to a step, and from steps to a run:

objective    the losses of a batch, pure functions that --compile compiles
weighting    how much each class weighs in them
reinforce    the loss of RL-SPINN
ppo          the losses of a policy that shares nothing with what composes
rule_search  policies that are worth imitating, before that
explore      how such a policy is trained, from the one to the other
methods      which batch and which loss a step has
optimizer    torch's optimisers, the learning rate of each step, clipping, an average of the weights
capture      steps as CUDA graphs
step         one optimisation step, in the precision of the run; its parts, marked for a profile
feeding      batches that a thread makes ahead, or processes
distributed  several processes that train one model
evaluate     scores of a model on a corpus
loop         epochs, evaluations, checkpoints, early stopping
metrics_log  metrics.jsonl, and the same for TensorBoard
checkpoint   the bundles of a run, and what else a killed one needs
run          all of it, from settings to results

config       RunConfig = data + encoder + classifier + training settings
presets      named settings, files to copy and change
hardware     memory that is kept between steps, and what the machine is
profiling    where a step's time goes
"""

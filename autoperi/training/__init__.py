"""Training: data, tasks and checkpoints; needs only torch, e3nn, numpy, safetensors and lightning."""

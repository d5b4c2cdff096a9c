"""Trained models out of the laboratory: graphs for onnxruntime, TorchScript and torch.export, and what judges them."""

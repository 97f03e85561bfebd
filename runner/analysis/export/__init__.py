"""Export of the trained model of a run as ONNX, TorchScript or safetensors."""

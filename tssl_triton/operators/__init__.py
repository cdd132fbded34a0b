"""PyTorch operators of neurons and spike trains: allocation, layout, device and gradient."""

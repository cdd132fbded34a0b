"""The CPU implementation: the launchers of `tssl_triton.kernels` as C++ loops."""

"""The network: encoders, the decoder's blocks, and the model that joins them."""

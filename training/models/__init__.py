"""Networks: opening them, their kernels, sampling from them, and exporting them."""

"""The benchmark: our attack step beside the published recipe's, at the paper's sizes. Run by `make bench`."""

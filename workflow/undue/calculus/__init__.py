"""The one calculus under every experiment: losses, gradients, Hessian products, solves, influence."""

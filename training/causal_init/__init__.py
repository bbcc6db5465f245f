"""Starting a causal student: consistency, flow matching, or regression on the teacher's ODE."""

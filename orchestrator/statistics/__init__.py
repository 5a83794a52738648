"""Statistics of paired arms: pure functions on numbers, nothing of rounds, databases or time.

`examples`: two runs on the same validation examples; `seeds`: the same pair of arms under several seeds; `variants`:
all variants of a round at once. Deltas are fractions. Every p-value is one-sided: how likely a gain of at least this
size is where there is none. NumPy and SciPy are imported inside the functions that compute with them:
`fsq status` needs none of them.
"""

"""Weights in fewer bits: less to read for every token, so more tokens a second where reading is the limit.

int8, int4, fp8   a scheme a file: what a weight becomes (plain torch, the reference for every kernel)
scaled_rows       how int8 and fp8 keep it, and back; int4 has its own
packing           the order in which native code reads
linear            the modules that stand in a model for nn.Linear
model             quantize(model, scheme): puts them there
quality           how far a changed model's answers are from the original's
"""

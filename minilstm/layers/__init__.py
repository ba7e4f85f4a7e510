"""The paper, part 1: cells, recurrent layers, losses.

Read cells.py, layer.py (its first half), linear.py, rnn.py, lstm.py, stack.py and losses.py. Then
read models/. The other files can wait:

    unrolled.py       the arrays of a recurrent layer over all time steps
    init.py           the initial values of the parameters
    dropout.py        dropout
    samples.py        small layers and inputs for the gradient check
    segments.py       recomputation and truncated back-propagation
    workspace.py      memory that is used again in every training step
    memory_order.py   the order of arrays in memory, which changes only the speed
"""

"""The paper, part 1: cells, recurrent layers, losses.

Read layer.py, cells.py, linear.py, rnn.py, lstm.py, stack.py and losses.py. Then read models/. The
other files can wait: unrolled.py (arrays of a run), init.py, dropout.py, samples.py (for the
gradient check), segments.py (less memory), workspace.py and memory_order.py (speed).
"""

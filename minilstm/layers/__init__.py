"""The paper, part 1: cells, recurrent layers, losses. Read cells.py, rnn.py, lstm.py, stack.py."""

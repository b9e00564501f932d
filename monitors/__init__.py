"""Monitors: production has no labels, so what the model says is watched, and a human is woken when it changes.

The way of one prediction to a page: its record carries the signals that the runner measured; `watch` follows the log
with a durable cursor and gives each record to its version's `streams.Stream`; the stream cuts batches and feeds one
detector a signal, against the baseline that the bundle brought; evidence beyond the limit becomes a shift; shifts of
one model become one incident (`incidents`), and an incident becomes one page (`pages`), through an outbox that survives
a crash. The human decides, and the monitor or the control process acts on it.

The promise is in time: at most one false page in `days_per_false_page` days, in expectation, for the whole home. It is
divided over all versions and their signals.
"""

"""What a comparison of servers needs: the same models and bodies, one load generator, and honest accounting.

`models` makes the weights, the bodies and the expected answers; `peers` (beside this package) say how each server is
installed and started; `environment` installs them; `server` keeps one running, `processes` counts the CPU time of its
whole tree; `wrk` drives it; `answers` checks what it says; `points` measures one point; `course` plans rounds and
duels; `table` renders the medians, `machine` says where all this ran.
"""

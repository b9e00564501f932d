"""Export: the prediction log as CloudEvents 1.0 over HTTP, for tools that stand elsewhere.

A process of its own follows the log under the name `export` and sends what it reads; no call waits for it, and what
happens to it, or to the receiver, is seen in a lag and nowhere else. It commits its cursor when everything up to there
has arrived or was set aside, so every record arrives at least once, whatever dies; an event that comes twice has the
same source, id and type.

    events      what one record becomes, in the shapes of KServe's and Seldon's loggers and in our own
    delivery    how events reach a receiver: several in flight, tried again, or set aside
    process     the loop: read, deliver, commit
"""

"""Training a bundle again, from nothing but the bundle, and saying how close the second model is to the first.

    identical           the same model, byte by byte
    numerically-equal   on the held rows every label is the same, and no number differs by more than 1e-5
    equivalent          every metric, and the share of held rows on which both agree, is where other seeds bring it
    different           anything else, with the cause as far as it can be told
    data-lost           nothing was run: bytes that it was trained on are gone

`equivalent` needs a **floor**: the agreement that a run with another seed would have with the first model, at least. It
is measured by training with other seeds, never assumed; without it only the first two pass. A run on other data or
other code is `different` also where its predictions are within the floor: a test set that can't tell them apart proves
nothing, and the margin that is reported with every verdict says so.

    agreement.py   predictions of two models compared; floor and intervals. Numbers only
    words.py       the words of a verdict
    verdict.py     from what was found to the verdict, its cause and its sentence. A table
    data.py        the bytes of the data, by digest
    surroundings.py  the environment of the run, built again; how this machine differs
    rerun.py       a fresh folder with code and data, and the recorded command in it, confined
    models.py      a model unpacked: what it consists of, its metrics, its answers to the held rows
    training.py    both: a recorded run that can be made again
    floors.py      training with other seeds
    statement.py   the verdict, signed, beside the bundle
    reproduce.py   all of it, in order
"""

"""The servers that are compared: one folder each, with its configuration and what is deployed in it."""

from load_tests.comparison.server import Peer
from load_tests.peers.bentoml import BentoMl
from load_tests.peers.fastapi import FastApi
from load_tests.peers.kserve import KServe
from load_tests.peers.litserve import LitServe
from load_tests.peers.mlflow import MlFlow
from load_tests.peers.mlserver import MlServer
from load_tests.peers.ray import RayServe
from load_tests.peers.snowgate import Snowgate
from load_tests.peers.torchserve import TorchServe
from load_tests.peers.triton import Triton

CLASSES = (Snowgate, Triton, FastApi, TorchServe, MlServer, KServe, MlFlow, LitServe, BentoMl, RayServe)
PEERS: dict[str, Peer] = {one.name: one() for one in CLASSES}
"""By the name that `--peers` takes, in the order of the tables."""

"""The published names of SEED-LLaMA's language model."""

from __future__ import annotations

from plait.checkpoints.parts import adapters

ADAPTERS = adapters()
"""Adapters on all matrices of the blocks, as peft names them behind its own prefix, and the matrices under them."""

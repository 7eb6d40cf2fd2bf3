"""The procedural world `shapes`: scenes of coloured shapes, sentences and questions about them, and their pictures.

Everything is a pure function of (seed, index). `Shapes` is the source of documents; `oracle.read` reads a scene back
from the pixels of a picture, so that drawings can be judged.
"""

from plait.data.shapes.questions import Question, correct
from plait.data.shapes.source import Example, Shapes
from plait.data.shapes.world import Object, Scene, SceneImage

__all__ = ["Example", "Object", "Question", "Scene", "SceneImage", "Shapes", "correct"]

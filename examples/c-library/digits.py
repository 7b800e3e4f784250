"""Recognises handwritten digits with a model that ptqc has compiled, through ctypes.

usage: digits.py LIBRARY REPORT IMAGES.npy [LABELS.npy]

Scales and zero points come from the report that ptqc writes beside the C files. numpy is used where it is installed.
"""

import ast
import ctypes
import json
import sys
from array import array

try:
    import numpy
except ImportError:
    numpy = None


def load(path):
    """The numbers of a .npy file as a flat list."""
    if numpy is not None:
        return numpy.load(path).ravel().tolist()
    with open(path, "rb") as file:
        version = file.read(8)[6]
        header_bytes = int.from_bytes(file.read(2 if version == 1 else 4), "little")
        header = ast.literal_eval(file.read(header_bytes).decode("latin1"))
        types = {"<f4": "f", "|u1": "B"}
        if header["fortran_order"] or header["descr"] not in types:
            sys.exit(f"error: {path}: install numpy to read this array: {header}")
        return array(types[header["descr"]], file.read()).tolist()


def length(tensor):
    """Number of elements of an input or output."""
    product = 1
    for dim in tensor["dims"]:
        product *= dim
    return product


class Model:
    """The compiled model: real numbers in, real numbers out."""

    def __init__(self, library, report):
        with open(report, encoding="utf-8") as file:
            report = json.load(file)
        self.input, self.output = report["inputs"][0], report["outputs"][0]
        self.function = getattr(ctypes.CDLL(library), report["name"] + "_run")
        self.function.restype = None
        self.q_input = (ctypes.c_int8 * length(self.input))()
        self.q_output = (ctypes.c_int8 * length(self.output))()

    def run(self, values):
        scale, zero_point = self.input["scale"], self.input["zero_point"]
        for i, value in enumerate(values):
            self.q_input[i] = max(-128, min(127, zero_point + round(value / scale)))
        self.function(self.q_input, self.q_output)
        scale, zero_point = self.output["scale"], self.output["zero_point"]
        return [scale * (q - zero_point) for q in self.q_output]


def main(library, report, images, labels=None):
    model = Model(library, report)
    pixels, size = load(images), length(model.input)
    logits = [model.run(pixels[start : start + size]) for start in range(0, len(pixels), size)]
    classes = [values.index(max(values)) for values in logits]
    print("the first ten are", *classes[:10])
    if labels is not None:
        right = sum(found == wanted for found, wanted in zip(classes, load(labels)))
        print(f"{right} of {len(classes)} are right")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*sys.argv[1:])

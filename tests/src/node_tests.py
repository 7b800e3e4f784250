"""Writes the ONNX project's own operator tests to the folder given as argument, one folder for each test:
model.onnx, inputs.bin and expected.bin (float32, all tensors one after the other), or why.txt.

Only what ptqc can mean is changed: inputs that have to be known at compile time become initializers.
"""

import json
import os
import sys
import warnings

warnings.filterwarnings("ignore")

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

# Inputs of reals that are weights or settings, by operator; integers always are, but for `AT_RUN_TIME`.
CONSTANT_PORTS = {
    "BatchNormalization": (1, 2, 3, 4),
    "Clip": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Dropout": (1, 2),
    "GRU": (1, 2, 3, 5),
    "Gemm": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LSTM": (1, 2, 3, 5, 6, 7),
    "LayerNormalization": (1, 2),
    "OneHot": (1, 2),
    "PRelu": (1,),
    "Pad": (1, 2, 3),
    "Pow": (1,),
    "RMSNormalization": (1,),
    "RNN": (1, 2, 3, 5),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}

# Inputs of integers or truth values that are computed at run time.
AT_RUN_TIME = {
    "And": (0, 1),
    "Equal": (0, 1),
    "Gather": (1,),
    "Not": (0,),
    "Or": (0, 1),
    "Where": (0,),
    "Xor": (0, 1),
}

TYPES = {np.dtype(name) for name in ("float32", "int32", "int64", "bool", "uint8", "int8")}


def array(value):
    value = numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
    return np.asarray(value) if isinstance(value, np.generic) else value


def write(case, folder):
    graph = case.model.graph
    inputs, outputs = ([array(value) for value in values] for values in case.data_sets[0])
    for value in inputs + outputs:
        if not isinstance(value, np.ndarray) or value.dtype not in TYPES:
            return f"type {getattr(value, 'dtype', type(value).__name__)}"
        if value.size == 0 and value.ndim and any(value is output for output in outputs):
            return "no elements"
    node = graph.node[0]
    constant, at_run_time = CONSTANT_PORTS.get(node.op_type, ()), AT_RUN_TIME.get(node.op_type, ())
    kept, feeds = [], []
    names = [info.name for info in graph.input]
    for info, value in zip(list(graph.input), inputs):
        ports = [port for port, name in enumerate(node.input) if name == info.name] if len(graph.node) == 1 else []
        is_real = value.dtype == np.float32
        # A range cannot be found for an input that is 0 throughout.
        settled = any(port in constant for port in ports) or is_real and not np.any(value)
        if settled or not is_real and not any(port in at_run_time for port in ports):
            graph.initializer.append(numpy_helper.from_array(value, info.name))
        else:
            if not np.all(np.isfinite(value.astype(np.float64))):
                return "infinite inputs"
            if value.size == 0:
                return "no elements"
            kept.append(info)
            feeds.append(value)
    if not kept:
        return "nothing to compute at run time"
    if not all(np.all(np.isfinite(value.astype(np.float64))) for value in outputs):
        return "infinite results"
    del graph.input[:]
    graph.input.extend(kept)
    onnx.save(case.model, os.path.join(folder, "model.onnx"))
    for name, values in (("inputs.bin", feeds), ("expected.bin", outputs)):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(b"".join(np.ascontiguousarray(value).astype("<f4").tobytes() for value in values))
    return None


def main(root, wanted):
    index = []
    for case in collect_testcases(None):
        if case.model is None or case.kind != "node" or case.name.endswith("_expanded") or "_expanded_" in case.name:
            continue
        nodes = case.model.graph.node
        op_type = nodes[0].op_type if len(nodes) else ""
        domain = nodes[0].domain if len(nodes) else ""
        if domain not in ("", "ai.onnx") or op_type not in wanted:
            continue
        folder = os.path.join(root, case.name)
        os.makedirs(folder, exist_ok=True)
        why = write(case, folder)
        index.append({"name": case.name, "op_type": op_type, "why": why})
    with open(os.path.join(root, "index.json"), "w") as file:
        json.dump(index, file)


main(sys.argv[1], set(sys.argv[2:]))

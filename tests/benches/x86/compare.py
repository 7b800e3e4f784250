"""Times ptqc's code, LiteRT and onnxruntime on the same models: one process, one thread, in turns.

Arguments: a folder with NAME.so for each model (the function NAME_run), and for each model NAME=MODEL.onnx=SAMPLES.npy.
Prints medians in microseconds as JSON. Each engine is called from Python once for each time, so each bears the cost of one
such call, below a microsecond; onnxruntime's inputs and outputs are bound beforehand.
"""

import ctypes
import json
import os
import sys
import tempfile
import time

import numpy as np
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

ROUNDS, BURST_NS = 60, 4_000_000


class Samples(CalibrationDataReader):
    def __init__(self, name, samples):
        self.rows = iter({name: sample[None]} for sample in samples)

    def get_next(self):
        return next(self.rows, None)


def ptqc(folder, name, model, samples):
    function = getattr(ctypes.CDLL(os.path.join(folder, name + ".so")), name + "_run")
    source = np.zeros(samples[0].size, np.int8)
    result = np.zeros(1 << 16, np.int8)
    arguments = (ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(result.ctypes.data))
    keep = (source, result)
    return lambda: function(*arguments) and keep


def litert(folder, name, model, samples):
    from ai_edge_litert.interpreter import Interpreter

    from tflite import convert

    interpreter = Interpreter(model_content=convert(model, samples), num_threads=1)
    interpreter.allocate_tensors()
    check(interpreter, model, samples)
    return interpreter.invoke


def check(interpreter, model, samples):
    """The file computes the model: its outputs are near those of the float model."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    errors, power = 0.0, 0.0
    for sample in samples[:8]:
        scale, zero = source["quantization"]
        stored = np.clip(np.rint(sample / scale + zero), -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], stored.reshape(source["shape"]))
        interpreter.invoke()
        scale, zero = result["quantization"]
        output = (interpreter.get_tensor(result["index"]).astype(np.float32) - zero) * scale
        (expected,) = session.run(None, {session.get_inputs()[0].name: sample[None]})
        errors += np.square(output.ravel() - expected.ravel()).sum()
        power += np.square(expected).sum()
    assert errors < 0.09 * power, f"{model}: the .tflite file is off by {np.sqrt(errors / power):.2f}"


def onnxruntime_int8(folder, name, model, samples):
    float_session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    source = float_session.get_inputs()[0].name
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        quantize_static(
            model,
            file.name,
            Samples(source, samples[:16]),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(file.name, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(source, samples[:1])
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


ENGINES = {"ptqc": ptqc, "litert": litert, "onnxruntime": onnxruntime_int8}


def measure(folder, name, model, data):
    samples = np.load(data).astype(np.float32)
    calls, absent = {}, {}
    for engine, prepare in ENGINES.items():
        try:
            calls[engine] = prepare(folder, name, model, samples)
        except (ImportError, NotImplementedError) as problem:
            absent[engine] = str(problem)
    times = {engine: [] for engine in calls}
    for call in calls.values():
        for _ in range(10):
            call()
    for _ in range(ROUNDS):
        for engine, call in calls.items():
            end = time.perf_counter_ns() + BURST_NS
            now = time.perf_counter_ns()
            while now < end:
                call()
                then, now = now, time.perf_counter_ns()
                times[engine].append(now - then)
    return {"model": name, "median_us": {e: float(np.median(t)) / 1000 for e, t in times.items()}, "absent": absent}


def main():
    onnxruntime.set_default_logger_severity(3)
    folder, *models = sys.argv[1:]
    print(json.dumps([measure(folder, *model.split("=")) for model in models]))


if __name__ == "__main__":
    main()

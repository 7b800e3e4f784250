"""Makes an int8 .tflite file of a float ONNX model, so that LiteRT can run what ptqc compiles.

Only what the models of the comparison need: convolutions, dense layers, additions, average pooling, softmax, and changes of
shape. Scales are the smallest and largest values over some samples; layers and shapes are what time depends on.
"""

import flatbuffers
import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper


# Versions of the operators that take int8.
VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "RESHAPE": 1}


def convert(path, samples):
    """The bytes of the file."""
    return Converter(onnx.load(path), samples).bytes()


class Converter:
    def __init__(self, model, samples):
        self.graph = model.graph
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.users = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.shapes, self.ranges = observe(model, samples)
        self.codes, self.operators, self.tensors, self.buffers = [], [], [], [schema.BufferT()]
        self.indices, self.scales = {}, {}
        source = self.graph.input[0].name
        self.indices[source] = self.activation(source, source)
        skip = set()
        for node in self.graph.node:
            if node.output[0] not in skip:
                self.node(node, skip)

    def node(self, node, skip):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        source, result = node.input[0], node.output[0]
        if node.op_type == "Conv":
            last, relu = self.fused(result, skip)
            self.conv(node, attributes, last, relu)
        elif node.op_type == "MatMul":
            (addition,) = self.users[result]
            bias = next(name for name in addition.input if name in self.constants)
            skip.add(addition.output[0])
            last, relu = self.fused(addition.output[0], skip)
            self.dense(source, self.constants[node.input[1]], self.constants[bias], last, relu)
        elif node.op_type == "Add":
            last, relu = self.fused(result, skip)
            options = schema.AddOptionsT()
            options.fusedActivationFunction = relu
            self.operator("ADD", [self.indices[name] for name in node.input], last, "AddOptions", options)
        elif node.op_type == "AveragePool":
            options = schema.Pool2DOptionsT()
            options.padding = schema.Padding.VALID
            options.filterHeight, options.filterWidth = attributes["kernel_shape"]
            options.strideH, options.strideW = attributes["strides"]
            self.operator("AVERAGE_POOL_2D", [self.indices[source]], result, "Pool2DOptions", options, like=source)
        elif node.op_type == "Softmax":
            options = schema.SoftmaxOptionsT()
            options.beta = 1.0
            self.ranges[result] = (0.0, 255.0 / 256.0)
            self.operator("SOFTMAX", [self.indices[source]], result, "SoftmaxOptions", options)
        elif node.op_type == "Reshape" and len(self.shapes[result]) == 2:
            options = schema.ReshapeOptionsT()
            options.newShape = list(self.shapes[result])
            shape = self.constant("shape", np.array(self.shapes[result], np.int32), schema.TensorType.INT32)
            self.operator("RESHAPE", [self.indices[source], shape], result, "ReshapeOptions", options, like=source)
        elif node.op_type in ("Transpose", "Reshape"):
            # Between the layouts of ONNX and TFLite: all tensors here have TFLite's.
            self.indices[result], self.scales[result] = self.indices[source], self.scales[source]
        else:
            raise NotImplementedError(node.op_type)

    def fused(self, result, skip):
        """The tensor after a Relu that follows, and the activation."""
        users = self.users.get(result, [])
        if len(users) == 1 and users[0].op_type == "Relu":
            skip.add(users[0].output[0])
            return users[0].output[0], schema.ActivationFunctionType.RELU
        return result, schema.ActivationFunctionType.NONE

    def conv(self, node, attributes, result, relu):
        weights = self.constants[node.input[1]]
        depthwise = attributes.get("group", 1) > 1
        bias = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weights), np.float32)
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding = schema.Padding.SAME if any(attributes.get("pads", [])) else schema.Padding.VALID
        options.strideH, options.strideW = attributes["strides"]
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = relu
        # A channel whose weights are next to nothing gets a scale that its bias fits.
        largest = np.abs(weights).max(axis=(1, 2, 3))
        scale = np.maximum(largest, 1e-3 * largest.max()) / 127.0
        stored = np.rint(weights / scale[:, None, None, None]).astype(np.int8)
        if depthwise:
            options.depthMultiplier = 1
            stored = stored.transpose(1, 2, 3, 0)
        else:
            stored = stored.transpose(0, 2, 3, 1)
        operands = self.weighted(node.input[0], stored, bias, scale, 3 if depthwise else 0)
        if depthwise:
            self.operator("DEPTHWISE_CONV_2D", operands, result, "DepthwiseConv2DOptions", options)
        else:
            self.operator("CONV_2D", operands, result, "Conv2DOptions", options)

    def dense(self, source, weights, bias, result, relu):
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = relu
        scale = np.array([np.abs(weights).max() / 127.0])
        stored = np.rint(weights.T / scale).astype(np.int8)
        operands = self.weighted(source, stored, bias, scale, 0)
        self.operator("FULLY_CONNECTED", operands, result, "FullyConnectedOptions", options)

    def weighted(self, source, weights, bias, scale, axis):
        input_scale = self.scales[source][0]
        bias = np.rint(bias / (input_scale * scale)).astype(np.int32)
        return [
            self.indices[source],
            self.constant("weights", weights, schema.TensorType.INT8, scale, axis),
            self.constant("bias", bias, schema.TensorType.INT32, input_scale * scale, 0),
        ]

    def operator(self, code, inputs, result, kind, options, like=None):
        if code not in self.codes:
            self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self.codes.index(code)
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
        operator.builtinOptions = options
        operator.inputs = inputs
        self.indices[result] = self.activation(result, like or result)
        operator.outputs = [self.indices[result]]
        self.operators.append(operator)

    def activation(self, name, like):
        """A tensor whose encoding is that of the tensor `like`."""
        if like not in self.scales:
            low, high = min(self.ranges[like][0], 0.0), max(self.ranges[like][1], 1e-6)
            scale = (high - low) / 255.0
            self.scales[like] = (scale, int(np.rint(-128 - low / scale)))
        self.scales[name] = self.scales[like]
        scale, zero = self.scales[name]
        shape = list(self.shapes[name])
        if len(shape) == 4 and name != self.graph.input[0].name:
            shape = [shape[0], shape[2], shape[3], shape[1]]
        return self.tensor(name, shape, schema.TensorType.INT8, 0, [scale], [zero], 0)

    def constant(self, name, values, kind, scale=None, axis=0):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.buffers.append(buffer)
        zero = None if scale is None else np.zeros(len(scale), np.int64)
        return self.tensor(name, values.shape, kind, len(self.buffers) - 1, scale, zero, axis)

    def tensor(self, name, shape, kind, buffer, scale, zero, axis):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, buffer
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(scale, np.float32)
            tensor.quantization.zeroPoint = np.asarray(zero, np.int64)
            tensor.quantization.quantizedDimension = axis
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def bytes(self):
        subgraph = schema.SubGraphT()
        subgraph.tensors, subgraph.operators = self.tensors, self.operators
        subgraph.inputs = [self.indices[self.graph.input[0].name]]
        subgraph.outputs = [self.indices[output.name] for output in self.graph.output]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [subgraph], self.buffers
        model.operatorCodes = []
        for name in self.codes:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
            code.version = VERSIONS.get(name, 2)
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def observe(model, samples):
    """Shape, and smallest and largest value, of every tensor over samples."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output]
    known = {output.name for output in model.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    source, outputs = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    shapes, ranges = {source: samples[:1].shape}, {source: (samples.min(), samples.max())}
    for sample in samples[:16]:
        for name, value in zip(outputs, session.run(outputs, {source: sample[None]})):
            low, high = ranges.get(name, (value.min(), value.max()))
            shapes[name], ranges[name] = value.shape, (min(low, value.min()), max(high, value.max()))
    return shapes, ranges

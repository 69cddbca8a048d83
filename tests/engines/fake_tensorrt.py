"""Stands in for classic TensorRT: the test copies it to `tensorrt.py`. The plan it "builds" is what it was told.

The environment variable FAKE_TENSORRT makes it fail: `no-driver`, `none`, `silent`, `crash`, `raise`, `sleep`.
"""

import enum
import json
import os
import sys
import time
from pathlib import Path

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "10.3.0")
BEHAVIOUR = os.environ.get("FAKE_TENSORRT", "")

Severity = enum.Enum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE")
DataType = enum.Enum("DataType", "FLOAT HALF BF16 INT64")
LayerType = enum.Enum("LayerType", "CONSTANT MATRIX_MULTIPLY")
ProfilingVerbosity = enum.Enum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED")
MemoryPoolType = enum.Enum("MemoryPoolType", "WORKSPACE")
MatrixOperation = enum.Enum("MatrixOperation", "NONE TRANSPOSE VECTOR")
BuilderFlag = enum.Enum("BuilderFlag", "REFIT STRIP_PLAN VERSION_COMPATIBLE")
HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS")


LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON")


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class ILogger:
    pass


class Tensor:
    def __init__(self, name, shape, dtype):
        self.name, self.shape, self.dtype = name, shape, dtype


class Layer:
    num_outputs = num_inputs = 2
    op0 = MatrixOperation.NONE

    def __init__(self, kind):
        self.type, self.name, self.metadata = kind, kind.name.lower(), "[ONNX Layer: /blocks.0/mlp/MatMul]"

    def get_input(self, index):
        return Tensor(f"i{index}", [(-1, 16, 32), (1, 32, 32)][index], DataType.HALF)

    def get_output(self, index):
        return None if index else Tensor("y", (-1, 16, 32), DataType.HALF)


class IMatrixMultiplyLayer(Layer):
    pass


class Network:
    num_inputs = num_outputs = 1
    num_layers = 2

    def __init__(self, flags):
        self.flags = flags

    def get_layer(self, index):
        return Layer([LayerType.CONSTANT, LayerType.MATRIX_MULTIPLY][index])

    def get_input(self, index):
        return Tensor("x", (-1, 16, 32), DataType.HALF)


class Config:
    profiling_verbosity = builder_optimization_level = hardware_compatibility_level = None

    def __init__(self):
        self.limits, self.profiles, self.flags, self.cache = {}, [], [], None

    def set_flag(self, flag):
        self.flags.append(flag.name)

    def create_timing_cache(self, content):
        return Cache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache.content.decode()
        return not ignore_mismatch and cache.content != b"of another GPU"

    def set_memory_pool_limit(self, pool, size):
        self.limits[pool.name] = size

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1


class Cache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content + b"+"


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, low, best, high):
        self.shapes[name] = [low, best, high]


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger):
        pass

    def parse_from_file(self, path):
        return True


class Builder:
    def __init__(self, logger):
        self.logger = logger
        if BEHAVIOUR == "no-driver":
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def create_network(self, flags):
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        sys.stdout.write("noise\n")
        if BEHAVIOUR == "none":
            self.logger.log(Severity.ERROR, "Error Code 1: Cuda Runtime (cudaError 35: CUDA driver version is ...)")
            self.logger.log(Severity.ERROR, "IBuilder::buildSerializedNetwork: the real cause")
            return None
        if BEHAVIOUR == "silent":
            return None
        if BEHAVIOUR == "crash":
            sys.stderr.write("Internal Error: something in Myelin\n")
            sys.stderr.flush()
            os.abort()
        if BEHAVIOUR == "raise":
            raise ValueError("not expected at all")
        if BEHAVIOUR == "sleep":
            Path(os.environ["FAKE_TENSORRT_PID"]).write_text(str(os.getpid()))
            time.sleep(60)
        level = config.hardware_compatibility_level
        told = {
            "flags": network.flags,
            "limits": config.limits,
            "profiles": config.profiles,
            "builder_flags": config.flags,
            "level": config.builder_optimization_level,
            "hardware": level and level.name,
            "cache": config.cache,
        }
        return json.dumps({**told, "plugins": getattr(init_libnvinfer_plugins, "called", False)}).encode()


class Runtime:
    """Loads what it built; its inspector tells what a file says."""

    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        return None if "FAKE_TENSORRT_LAYERS" not in os.environ else self

    def create_engine_inspector(self):
        return self

    def get_engine_information(self, kind):
        assert kind is LayerInformationFormat.JSON
        return Path(os.environ["FAKE_TENSORRT_LAYERS"]).read_text(encoding="utf-8")


def init_libnvinfer_plugins(logger, namespace):
    init_libnvinfer_plugins.called = True

"""NVIDIA's management library (libnvidia-ml, which comes with the driver), as much of it as the screen shows."""

from __future__ import annotations

import ctypes
from typing import Any

SUCCESS = 0
GPU_TEMPERATURE = 0
"""NVML_TEMPERATURE_GPU."""


class _Memory(ctypes.Structure):
    """nvmlMemory_t: bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    """nvmlUtilization_t: percent."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Nvml:
    """The cards that the driver knows; none where there is no driver."""

    def __init__(self) -> None:
        self._library: Any = None
        self._handles: list[ctypes.c_void_p] = []
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
            if library.nvmlInit_v2() != SUCCESS:
                return
        except (OSError, AttributeError):
            return
        self._library = library
        count = ctypes.c_uint(0)
        library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for index in range(count.value):
            handle = ctypes.c_void_p()
            if library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == SUCCESS:
                self._handles.append(handle)

    def read(self) -> list[dict[str, Any]]:
        """What each card tells, by the names of `machine.Card`; a card that tells not even its memory is left out."""
        return [told for handle in self._handles if (told := self._card(handle))]

    def close(self) -> None:
        if self._library is not None:
            self._library.nvmlShutdown()
            self._library, self._handles = None, []

    def _card(self, handle: ctypes.c_void_p) -> dict[str, Any]:
        memory = _Memory()
        if not self._told("nvmlDeviceGetMemoryInfo", handle, memory):
            return {}
        card: dict[str, Any] = {"used": memory.used, "total": memory.total}
        use, degrees, milliwatts, limit = _Utilization(), ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
        if self._told("nvmlDeviceGetUtilizationRates", handle, use):
            card["busy"] = use.gpu
        if self._told("nvmlDeviceGetTemperature", handle, ctypes.c_uint(GPU_TEMPERATURE), degrees):
            card["temperature"] = degrees.value
        if self._told("nvmlDeviceGetPowerUsage", handle, milliwatts):
            card["watts"] = milliwatts.value / 1000
        if self._told("nvmlDeviceGetEnforcedPowerLimit", handle, limit):
            card["limit"] = limit.value / 1000
        return card

    def _told(self, function: str, handle: ctypes.c_void_p, *arguments: Any) -> bool:
        """Call a function whose last argument is where its answer goes; whether it answered."""
        *given, answer = arguments
        try:
            return bool(getattr(self._library, function)(handle, *given, ctypes.byref(answer)) == SUCCESS)
        except AttributeError:  # a driver older than the function
            return False

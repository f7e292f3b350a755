"""Networks out of this package: ONNX graphs and `torch.export` programs."""

from ganfuse.interop.export.comparison import Difference as Difference
from ganfuse.interop.export.comparison import ExportError as ExportError
from ganfuse.interop.export.comparison import Report as Report
from ganfuse.interop.export.onnx_graphs import export_onnx as export_onnx
from ganfuse.interop.export.programs import export_program as export_program
from ganfuse.interop.export.subject import exportable_parts as exportable_parts

__all__ = ["Difference", "ExportError", "Report", "export_onnx", "export_program", "exportable_parts"]

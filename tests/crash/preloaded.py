"""What the fork server imports once for all runs; nothing here computes, so that no threads are forked."""

from __future__ import annotations

import accelerate  # noqa: F401
import torch._dynamo  # noqa: F401
import vl_convert  # noqa: F401

import bench.cli.app
import bench.cli.progress
import bench.data
import bench.doctor
import bench.drivers.in_process
import bench.metrics.features
import bench.present
import bench.report.latex
import bench.report.markdown
import bench.report.page
import bench.run
import bench.workbench
import models.flow_matching  # noqa: F401
import tests.bench.toys  # noqa: F401

bench.data.load("digits")

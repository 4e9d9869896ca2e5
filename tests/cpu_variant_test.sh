#!/bin/sh
# The tests of kernels and of whole models with the CPU kernels of one variant; skipped (77) where the machine lacks it.
#   cpu_variant_test.sh VARIANT PROGRAM TESTS
set -eu
variant=$1 program=$2 tests=$3
if ! "$program" info --devices --json | tr -d ' \n' | grep -q "\"usable_cpu_kernels\":\[[^]]*\"$variant\""; then
  echo "this machine cannot run $variant"
  exit 77
fi
export PERCEIVER_CPU="$variant"
"$program" --version | grep -qx "CPU kernels: $variant"
exec "$tests" --gtest_brief=1 \
  --gtest_filter='CpuVariant.*:Gemm.*:SkinnyGemm.*:*Attention.*:AttentionJoin.*:Sample.*:StepControl.*:MovingAverage.*:Scale.*:Swap.*:WriteRows.*:ShareSlots.*:Dropout.*:Embedding.*:LayerNorm.*:Linear.*:OutputLoss.*:Projection.*:Residual*:Rotary.*:Rows.*:Golden.*:WorkerPool.*'

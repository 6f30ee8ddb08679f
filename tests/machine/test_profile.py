"""What each instruction of a compiled program counts as."""

from jaxdbd.machine.profile import instruction_kinds

HLO = """HloModule jit_f, is_scheduled=true

%fused_computation (p: f32[4,8]) -> f32[8] {
  %p = f32[4,8]{1,0} parameter(0)
  %m = f32[4,8]{1,0} multiply(%p, %p)
  ROOT %r = f32[8]{0} reduce(%m, %c), dimensions={0}, to_apply=%add
}

ENTRY %main (a: f32[4,8], b: f32[8,3]) -> f32[4,3] {
  %a = f32[4,8]{1,0} parameter(0)
  %dot.1 = f32[4,3]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %multiply_reduce_fusion = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused_computation
  %convolution.2 = f32[1,4,4,3]{3,2,1,0} convolution(%x, %k), window={size=3x3}
  ROOT %add.1 = f32[4,3]{1,0} add(%dot.1, %dot.1)
}
"""


def test_a_fusion_counts_as_the_heaviest_thing_in_it():
    kinds = instruction_kinds(HLO)
    assert {name: kinds[name] for name in ("dot.1", "multiply_reduce_fusion", "convolution.2", "add.1")} == {
        "dot.1": "dot",
        "multiply_reduce_fusion": "reduce",
        "convolution.2": "convolution",
        "add.1": "elementwise",
    }

//! Logarithms that stay finite where the plain composition does not.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// log σ(x), elementwise: min(x, 0) − log(1 + e^−|x|), finite for every finite x. The composition
/// `log(sigmoid(x))` is −∞ for x ≤ −745 and has no gradient there.
///
/// # Errors
/// When the tensor is not contiguous f64.
pub fn log_sigmoid(x: &Tensor) -> Result<Tensor> {
    x.apply_op1(LogSigmoid)
}

/// log(1 − eˣ) for x ≤ 0, elementwise; x is taken as −10⁻¹² at most, where the slope would be infinite.
///
/// # Errors
/// When the tensor is not contiguous f64.
pub fn log_one_minus_exp(x: &Tensor) -> Result<Tensor> {
    x.apply_op1(LogOneMinusExp)
}

/// σ(x) without overflow.
pub(super) fn sigmoid(x: &Tensor) -> Result<Tensor> {
    log_sigmoid(x)?.exp()
}

struct LogSigmoid;

impl CustomOp1 for LogSigmoid {
    fn name(&self) -> &'static str {
        "log-sigmoid"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        elementwise(storage, layout, |x| x.min(0.0) - (-x.abs()).exp().ln_1p())
    }

    /// d/dx log σ(x) = σ(−x).
    fn bwd(&self, x: &Tensor, _result: &Tensor, slope: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some((slope * sigmoid(&x.neg()?)?)?))
    }
}

struct LogOneMinusExp;

const LARGEST: f64 = -1e-12;

impl CustomOp1 for LogOneMinusExp {
    fn name(&self) -> &'static str {
        "log-one-minus-exp"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        elementwise(storage, layout, |x| {
            let x = x.min(LARGEST);
            // Each form is exact where the other loses digits.
            match x > -std::f64::consts::LN_2 {
                true => (-x.exp_m1()).ln(),
                false => (-x.exp()).ln_1p(),
            }
        })
    }

    /// d/dx log(1 − eˣ) = −1/(e^−x − 1), that is −e^(x − log(1 − eˣ)).
    fn bwd(&self, x: &Tensor, result: &Tensor, slope: &Tensor) -> Result<Option<Tensor>> {
        let inner = (x.minimum(LARGEST)? - result)?.exp()?.neg()?;
        Ok(Some((slope * inner)?))
    }
}

fn elementwise(
    storage: &CpuStorage,
    layout: &Layout,
    f: impl Fn(f64) -> f64,
) -> Result<(CpuStorage, Shape)> {
    let CpuStorage::F64(values) = storage else {
        bail!("losses are computed in f64");
    };
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("losses are computed on contiguous tensors");
    };
    let out = values[start..end].iter().map(|x| f(*x)).collect();
    Ok((CpuStorage::F64(out), layout.shape().clone()))
}

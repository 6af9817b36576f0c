//! How fast a model reads and writes.

use serde::Serialize;
use socratiq_agents::AgentError;
use socratiq_agents::model::{Adapters, Cache, Decoder, StepMemory};

use super::machine::{Machine, time};

/// Rates of one model.
#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    /// Tokens of the prompt that is read at once.
    pub prefill_tokens: usize,
    /// Its rate.
    pub prefill_tokens_per_second: f64,
    /// The arithmetic of that, as a share of the matmul peak.
    pub prefill_share_of_peak: f64,
    /// Tokens per second of one sequence.
    pub tokens_per_second: f64,
    /// The bytes of the weights times that, as a share of the rate of reading from memory.
    pub share_of_read_bandwidth: f64,
    /// Tokens per second of sixteen sequences together.
    pub tokens_per_second_of_16: f64,
    /// As a multiple of one sequence's.
    pub speedup_of_16: f64,
    /// The time of five beams from one prefix, as a multiple of one sequence's.
    pub time_of_5_beams: f64,
    /// Weights in 10⁹ bytes.
    pub weights_gb: f64,
}

/// Measures `decoder`: the best of several runs each.
///
/// # Errors
/// When the model's context is too short for the measurement.
pub fn measure(
    decoder: &Decoder,
    machine: &Machine,
    prefill_tokens: usize,
) -> Result<Generation, AgentError> {
    let vocabulary = decoder.config().vocab_size;
    let ids: Vec<u32> = (0..prefill_tokens)
        .map(|at| (at * 7919 % vocabulary) as u32)
        .collect();
    let mut bench = Bench {
        decoder,
        memory: StepMemory::default(),
        vocabulary,
    };
    let prefill = bench.best(5, |bench| {
        let mut cache = Cache::new(decoder);
        let mut failed = None;
        let seconds = time(|| failed = bench.read(&mut [&mut cache], &ids).err());
        failed.map_or(Ok(seconds), Err)
    })?;
    let one = bench.decode(1, &ids[..32.min(ids.len())], false)?;
    let sixteen = bench.decode(16, &ids[..32.min(ids.len())], false)?;
    let prefix = &ids[..256.min(ids.len())];
    let greedy = bench.decode(1, prefix, false)?;
    let beams = bench.decode(5, prefix, true)?;
    let bytes = decoder.bytes() as f64;
    // Two operations per weight and token; the embedding is looked up, and the head is applied once.
    let config = decoder.config();
    let body = decoder.num_weights() - config.vocab_size * config.hidden_size;
    Ok(Generation {
        prefill_tokens,
        prefill_tokens_per_second: prefill_tokens as f64 / prefill,
        prefill_share_of_peak: 2.0 * (body * prefill_tokens) as f64
            / prefill
            / 1e9
            / machine.matmul_peak_gflops,
        tokens_per_second: 1.0 / one,
        share_of_read_bandwidth: bytes / one / 1e9 / machine.read_gb_per_s,
        tokens_per_second_of_16: 16.0 / sixteen,
        speedup_of_16: 16.0 * one / sixteen,
        time_of_5_beams: beams / greedy,
        weights_gb: bytes / 1e9,
    })
}

struct Bench<'a> {
    decoder: &'a Decoder,
    memory: StepMemory,
    vocabulary: usize,
}

impl Bench<'_> {
    fn best(
        &mut self,
        runs: usize,
        mut run: impl FnMut(&mut Self) -> Result<f64, AgentError>,
    ) -> Result<f64, AgentError> {
        (0..runs).try_fold(f64::INFINITY, |best, _| Ok(best.min(run(self)?)))
    }

    fn read(&mut self, caches: &mut [&mut Cache], ids: &[u32]) -> Result<(), AgentError> {
        let mut steps: Vec<_> = caches.iter_mut().map(|cache| (&mut **cache, ids)).collect();
        self.decoder
            .extend(&mut steps, Adapters::On, &mut self.memory)?;
        Ok(())
    }

    /// Seconds per step of `count` sequences after a prompt, which share it or have one each; beams fork at
    /// every step.
    fn decode(&mut self, count: usize, prompt: &[u32], beams: bool) -> Result<f64, AgentError> {
        const STEPS: usize = 32;
        self.best(3, |bench| {
            let mut trunk = Cache::new(bench.decoder);
            bench.read(&mut [&mut trunk], prompt)?;
            let mut caches: Vec<Cache> = if beams {
                (0..count).map(|_| trunk.fork()).collect()
            } else {
                let mut caches: Vec<Cache> =
                    (1..count).map(|_| Cache::new(bench.decoder)).collect();
                for cache in &mut caches {
                    bench.read(&mut [cache], prompt)?;
                }
                caches.push(trunk);
                caches
            };
            let mut failed = None;
            let seconds = time(|| {
                for step in 0..STEPS {
                    if beams {
                        caches = caches.iter_mut().map(Cache::fork).collect();
                    }
                    let id = [(step * 104_729 % bench.vocabulary) as u32];
                    let mut group: Vec<&mut Cache> = caches.iter_mut().collect();
                    failed = failed.take().or(bench.read(&mut group, &id).err());
                }
            });
            failed.map_or(Ok(seconds / STEPS as f64), Err)
        })
    }
}

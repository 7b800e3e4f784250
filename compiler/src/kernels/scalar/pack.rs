//! Constants in the order in which assembly reads them.

/// What an output channel is computed from.
#[derive(Debug, Clone)]
pub struct Row {
    /// Bias, with what the zero point of the input adds.
    pub bias: i64,
    /// Twice the multiplier, so that the result is the upper half of the product.
    pub factor: i64,
    /// Weights in the order of the operand's elements.
    pub weights: Vec<i8>,
}

impl Row {
    /// `zero` is what stands for zero in the operand: its products go into the bias.
    pub fn new(bias: i64, factor: i64, weights: Vec<i8>, zero: i32) -> Row {
        let sum: i64 = weights.iter().map(|&w| i64::from(w)).sum();
        Row { bias: bias - i64::from(zero) * sum, factor, weights }
    }
}

/// Bytes that will be read as words, halfwords and bytes.
#[derive(Debug, Default)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// Appends a word, its lower 32 bits.
    pub fn word(&mut self, value: i64) {
        self.0.extend((value as u32).to_le_bytes());
    }

    /// Appends a byte.
    pub fn byte(&mut self, value: i8) {
        self.0.push(value as u8);
    }

    /// Fills up to a multiple of `to` bytes.
    pub fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    /// The bytes as little-endian words.
    pub fn words(mut self) -> Vec<i64> {
        self.align(4);
        self.0.chunks_exact(4).map(|word| i64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))).collect()
    }
}

/// Blocks of `block` channels: biases, the weights of each element for all channels of the block, factors; then the
/// channels that are left, one by one. Factors are aligned to `alignment` bytes.
pub fn blocks(rows: &[Row], block: usize, alignment: usize, bytes: &mut Bytes) {
    let whole = rows.len() / block * block;
    let groups = rows[..whole].chunks_exact(block).chain(rows[whole..].chunks(1));
    for group in groups {
        group.iter().for_each(|row| bytes.word(row.bias));
        for element in 0..group[0].weights.len() {
            group.iter().for_each(|row| bytes.byte(row.weights[element]));
        }
        bytes.align(alignment);
        group.iter().for_each(|row| bytes.word(row.factor));
    }
}

/// Weights of two elements for each channel of a block, then of the next two; rows are filled up with zeros to a
/// multiple of `unrolled`. `start` writes what comes before the weights of a channel, for all channels of a block.
pub fn paired(rows: &[Row], block: usize, unrolled: usize, start: impl Fn(&Row, &mut Bytes), bytes: &mut Bytes) {
    let whole = rows.len() / block * block;
    for group in rows[..whole].chunks_exact(block).chain(rows[whole..].chunks(1)) {
        group.iter().for_each(|row| start(row, bytes));
        for element in (0..group[0].weights.len().next_multiple_of(unrolled)).step_by(2) {
            for row in group {
                let weight = |at: usize| row.weights.get(at).copied().unwrap_or(0);
                bytes.byte(weight(element));
                bytes.byte(weight(element + 1));
            }
        }
        group.iter().for_each(|row| bytes.word(row.factor));
    }
}

/// Channels of a depthwise convolution: bias, factor, weights; each aligned to `alignment` bytes.
pub fn depthwise(rows: &[Row], alignment: usize, bytes: &mut Bytes) {
    for row in rows {
        bytes.word(row.bias);
        bytes.word(row.factor);
        row.weights.iter().for_each(|&weight| bytes.byte(weight));
        bytes.align(alignment);
    }
}

/// Single channels: bias, weights filled up to whole words, factor.
pub fn single(rows: &[Row], bytes: &mut Bytes) {
    blocks(rows, 1, 4, bytes);
}

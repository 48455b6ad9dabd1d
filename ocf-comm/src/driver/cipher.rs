//! Which cipher suits this machine.

use crate::{Cipher, Config};

/// True if the processor has instructions for AES. Without them AES is slow, and ChaCha20 is preferred.
#[must_use]
pub fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    {
        std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    {
        false
    }
}

/// Settles [`Cipher::Auto`] for the machine that this runs on. A core does not look at the machine, so that it does the
/// same on every one.
#[must_use]
pub fn for_this_machine(config: Config) -> Config {
    settle(config, has_aes())
}

fn settle(mut config: Config, has_aes: bool) -> Config {
    if config.cipher == Cipher::Auto && !has_aes {
        config.cipher = Cipher::AutoPortable;
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    #[test]
    fn a_processor_without_aes_prefers_chacha_and_a_choice_by_name_stays() {
        let with = |cipher, has_aes| {
            let mut config = Config::new("demo", Preset::Lan);
            config.cipher = cipher;
            settle(config, has_aes).cipher
        };
        assert_eq!(with(Cipher::Auto, true), Cipher::Auto);
        assert_eq!(with(Cipher::Auto, false), Cipher::AutoPortable);
        assert_eq!(with(Cipher::Aes256Gcm, false), Cipher::Aes256Gcm);
    }
}

//! Which characters people see: one table for names, terminals and alarms.

/// Whether a terminal obeys the character instead of showing it: control characters, and those that begin another line or
/// turn the direction or the form of what follows (Unicode Standard Annex 9, and the deprecated ones of U+206A to U+206F).
pub fn is_obeyed(c: char) -> bool {
    let is_mark = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}');
    let is_range = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}');
    c.is_control() || is_mark || is_range
}

/// Whether the character leaves no ink: a text of nothing else is as good as empty to who reads it. White space, what
/// [`is_obeyed`], the pattern without a dot (U+2800), and what Unicode lets a font ignore (`Default_Ignorable_Code_Point`
/// in <https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt>). Some of these join or choose the forms
/// of visible characters, as in many emoji, so that they are harmless beside others.
pub fn leaves_no_ink(c: char) -> bool {
    let is_ignorable = matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    c.is_whitespace() || is_obeyed(c) || is_ignorable || c == '\u{2800}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_the_direction_is_obeyed_and_what_joins_characters_is_not() {
        for obeyed in [
            '\u{0}', '\u{1b}', '\u{9b}', '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{202a}',
            '\u{202e}', '\u{2066}', '\u{2069}',
        ] {
            assert!(is_obeyed(obeyed) && leaves_no_ink(obeyed), "{obeyed:?}");
        }
        for blank in [
            ' ', '\u{3000}', '\u{ad}', '\u{200b}', '\u{200d}', '\u{feff}', '\u{fe0f}', '\u{3164}',
            '\u{2800}',
        ] {
            assert!(!is_obeyed(blank) && leaves_no_ink(blank), "{blank:?}");
        }
        for seen in ['a', 'ü', '家', '👩', '\u{301}', '_'] {
            assert!(!is_obeyed(seen) && !leaves_no_ink(seen), "{seen:?}");
        }
    }
}

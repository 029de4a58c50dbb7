//! The shape of a request, walked before it is decoded: every count and length that it states must be borne out by the
//! bytes that it has.
//!
//! The decoder makes room for as many elements as a request claims, before it reads one: four bytes would make it ask for
//! 154 GB (T47). So each API says here what its request looks like, and only what the walk has seen to its end is decoded.
//!
//! **Invariant**: a request that was walked has at most [`ELEMENTS_MAX`] elements of arrays and tagged fields, and each of
//! them is there.

/// Elements of arrays, and tagged fields, in one request: what a decoded one takes is far more than its bytes.
pub const ELEMENTS_MAX: usize = 50_000;

/// What a field is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// Nullable or not.
    Text,
    /// Nullable or not; records too.
    Blob,
    /// Of elements of one kind that is no structure.
    List(&'static Kind),
    /// Of structures; null or not.
    Array(&'static [Field]),
    Struct(&'static [Field]),
    /// Behind a byte that says whether it is there.
    Optional(&'static [Field]),
}

/// A field, and the versions that have it.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    kind: Kind,
    first: i16,
    last: i16,
    /// In the structure's tagged fields, under this number.
    tag: Option<u32>,
}

impl Field {
    const fn new(kind: Kind) -> Self {
        Self { kind, first: 0, last: i16::MAX, tag: None }
    }
    /// From this version on.
    pub const fn since(self, first: i16) -> Self {
        Self { first, ..self }
    }
    /// Up to this version.
    pub const fn until(self, last: i16) -> Self {
        Self { last, ..self }
    }
    /// A tagged field: these stand behind all others of the structure.
    pub const fn tagged(self, tag: u32) -> Self {
        Self { tag: Some(tag), ..self }
    }
    const fn is_in(&self, version: i16) -> bool {
        self.first <= version && version <= self.last
    }
}

/// A boolean or a number of 8 bits.
pub const fn int8() -> Field {
    Field::new(Kind::Fixed(1))
}
/// A number of 16 bits.
pub const fn int16() -> Field {
    Field::new(Kind::Fixed(2))
}
/// A number of 32 bits.
pub const fn int32() -> Field {
    Field::new(Kind::Fixed(4))
}
/// A number of 64 bits.
pub const fn int64() -> Field {
    Field::new(Kind::Fixed(8))
}
/// A UUID.
pub const fn uuid() -> Field {
    Field::new(Kind::Fixed(16))
}
/// A string, nullable or not.
pub const fn text() -> Field {
    Field::new(Kind::Text)
}
/// Bytes or records, nullable or not.
pub const fn blob() -> Field {
    Field::new(Kind::Blob)
}
/// An array of structures.
pub const fn array(fields: &'static [Field]) -> Field {
    Field::new(Kind::Array(fields))
}
/// An array of 32-bit numbers.
pub const fn int32s() -> Field {
    Field::new(Kind::List(&Kind::Fixed(4)))
}
/// An array of 8-bit numbers.
pub const fn int8s() -> Field {
    Field::new(Kind::List(&Kind::Fixed(1)))
}
/// An array of 64-bit numbers.
pub const fn int64s() -> Field {
    Field::new(Kind::List(&Kind::Fixed(8)))
}
/// An array of UUIDs.
pub const fn uuids() -> Field {
    Field::new(Kind::List(&Kind::Fixed(16)))
}
/// An array of strings.
pub const fn texts() -> Field {
    Field::new(Kind::List(&Kind::Text))
}
/// A structure.
pub const fn structure(fields: &'static [Field]) -> Field {
    Field::new(Kind::Struct(fields))
}
/// A structure that can be null.
pub const fn optional(fields: &'static [Field]) -> Field {
    Field::new(Kind::Optional(fields))
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The first version with compact lengths and tagged fields; its header has them too.
    pub flexible: i16,
    pub fields: &'static [Field],
}

/// Why a request is not decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("it ends within a field")]
    Cut,
    #[error("a length of {0} can't be")]
    Length(i64),
    #[error("it has more than {ELEMENTS_MAX} elements")]
    Elements,
    #[error("tagged field {tag} takes {found} bytes and says that it takes {stated}")]
    Tagged { tag: u32, stated: usize, found: usize },
}

impl Layout {
    /// A layout without compact lengths in any version that there is.
    pub const NEVER_FLEXIBLE: i16 = i16::MAX;

    /// Whether `version` has compact lengths and tagged fields.
    pub const fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible
    }

    /// Walks through `body`. Returns how many bytes the request takes; what is behind it is nobody's.
    pub fn check(&self, version: i16, body: &[u8]) -> Result<usize, LayoutError> {
        let is_flexible = self.is_flexible(version);
        let mut walk = Walk { bytes: body, at: 0, version, is_flexible, elements: 0 };
        walk.fields(self.fields)?;
        Ok(walk.at)
    }
}

/// Reads past a header's tagged fields, and says how many bytes they take.
pub(crate) fn tagged_fields_len(bytes: &[u8]) -> Result<usize, LayoutError> {
    let mut walk = Walk { bytes, at: 0, version: 0, is_flexible: true, elements: 0 };
    walk.tagged(&[])?;
    Ok(walk.at)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    version: i16,
    is_flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn skip(&mut self, length: usize) -> Result<(), LayoutError> {
        if length > self.bytes.len() - self.at {
            return Err(LayoutError::Cut);
        }
        self.at += length;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], LayoutError> {
        let found = self.bytes[self.at..].first_chunk::<N>().ok_or(LayoutError::Cut)?;
        self.at += N;
        Ok(*found)
    }

    /// As the decoder reads it: five bytes at most, whatever the last one says.
    fn varint(&mut self) -> Result<u32, LayoutError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.take()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Ok(value)
    }

    /// `None`: null. `wide`: of 32 bits rather than 16, where it is not compact.
    fn length(&mut self, wide: bool) -> Result<Option<usize>, LayoutError> {
        let stated = match (self.is_flexible, wide) {
            (true, _) => i64::from(self.varint()?) - 1,
            (false, true) => i32::from_be_bytes(self.take()?).into(),
            (false, false) => i16::from_be_bytes(self.take()?).into(),
        };
        match stated {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| LayoutError::Length(length)),
        }
    }

    /// `count` more elements, each of a byte at least.
    fn count(&mut self, count: usize) -> Result<(), LayoutError> {
        if count > self.bytes.len() - self.at {
            return Err(LayoutError::Cut);
        }
        self.elements += count;
        if self.elements > ELEMENTS_MAX { Err(LayoutError::Elements) } else { Ok(()) }
    }

    fn fields(&mut self, fields: &[Field]) -> Result<(), LayoutError> {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag.is_none() && field.is_in(version)) {
            self.value(field.kind)?;
        }
        if self.is_flexible { self.tagged(fields) } else { Ok(()) }
    }

    fn tagged(&mut self, fields: &[Field]) -> Result<(), LayoutError> {
        let count = self.varint()? as usize;
        self.count(count)?;
        for _ in 0..count {
            let (tag, stated) = (self.varint()?, self.varint()? as usize);
            let start = self.at;
            let known = fields.iter().find(|field| field.tag == Some(tag) && field.is_in(self.version));
            match known {
                None => self.skip(stated)?,
                // The decoder reads a known one by its type, and not by its length.
                Some(field) => self.value(field.kind)?,
            }
            let found = self.at - start;
            if found != stated {
                return Err(LayoutError::Tagged { tag, stated, found });
            }
        }
        Ok(())
    }

    fn value(&mut self, kind: Kind) -> Result<(), LayoutError> {
        match kind {
            Kind::Fixed(length) => self.skip(length),
            Kind::Text => self.length(false)?.map_or(Ok(()), |length| self.skip(length)),
            Kind::Blob => self.length(true)?.map_or(Ok(()), |length| self.skip(length)),
            Kind::List(of) => {
                let count = self.length(true)?.unwrap_or(0);
                self.count(count)?;
                (0..count).try_for_each(|_| self.value(*of))
            }
            Kind::Array(fields) => {
                let count = self.length(true)?.unwrap_or(0);
                self.count(count)?;
                (0..count).try_for_each(|_| self.fields(fields))
            }
            Kind::Struct(fields) => self.fields(fields),
            Kind::Optional(fields) => match self.take()? {
                [1] => self.fields(fields),
                _ => Ok(()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        flexible: 2,
        fields: &[
            int32().since(1),
            array(&[text(), int32s(), uuid().tagged(3).since(2)]),
            texts().until(1),
            optional(&[int8()]).since(1),
        ],
    };

    #[test]
    fn trap_47_a_count_that_the_bytes_do_not_bear_out_is_refused() {
        assert_eq!(LAYOUT.check(0, &[0x7f, 0xff, 0xff, 0xff]), Err(LayoutError::Cut));
        assert_eq!(LAYOUT.check(0, &[0xff, 0xff, 0xff, 0xfe]), Err(LayoutError::Length(-2)));
        assert_eq!(LAYOUT.check(2, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err(LayoutError::Cut));
        let mut many = vec![0, 1, 0, 0];
        many.resize(4 + (1 << 16) * 6, 0);
        assert_eq!(LAYOUT.check(0, &many), Err(LayoutError::Elements));
    }

    #[test]
    fn versions_have_their_own_fields() {
        // Two null arrays.
        assert_eq!(LAYOUT.check(0, &[0xff; 8]), Ok(8));
        let mut first = vec![0; 4];
        first.extend([0xff; 9]);
        assert_eq!(LAYOUT.check(1, &first), Ok(13));
        // One element with an empty text, no numbers and no tags; nothing optional; no tags. What follows is not its own.
        assert_eq!(LAYOUT.check(2, &[0, 0, 0, 9, 2, 1, 1, 0, 0xff, 0, 77]), Ok(10));
    }

    #[test]
    fn a_tagged_field_is_as_long_as_it_says() {
        let with_tag = |tag: u8, stated: u8| {
            let mut bytes = vec![0, 0, 0, 9, 2, 1, 1, 1, tag, stated];
            bytes.extend([7; 16]);
            bytes.extend([0xff, 0]);
            bytes
        };
        assert_eq!(LAYOUT.check(2, &with_tag(3, 16)), Ok(28));
        assert_eq!(LAYOUT.check(2, &with_tag(9, 16)), Ok(28));
        assert_eq!(LAYOUT.check(2, &with_tag(3, 15)), Err(LayoutError::Tagged { tag: 3, stated: 15, found: 16 }));
    }
}

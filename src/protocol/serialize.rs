//! Values for serde (feature `serde`).
//!
//! Texts are texts where the format has any and they are UTF-8, and bytes otherwise, so that nothing is lost.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{self, Serialize, SerializeMap, Serializer};

use super::field_table::FieldTable;
use super::short_string::ShortString;

/// For `#[serde(with)]`: bytes that are usually text.
pub(crate) mod text_or_bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) if serializer.is_human_readable() => serializer.serialize_str(text),
            _ => serializer.serialize_bytes(bytes),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_any(TextOrBytes)
        } else {
            deserializer.deserialize_byte_buf(TextOrBytes)
        }
    }
}

/// For `#[serde(with)]`: bytes that are no text.
pub(crate) mod bytes {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_byte_buf(TextOrBytes)
    }
}

/// For `#[serde(with)]`: a floating-point number. JSON has no NaN and no infinities, and serde_json would write null for them;
/// they are the texts `NaN`, `inf` and `-inf` where people read the format.
pub(crate) mod float {
    use super::*;

    pub(crate) trait Float: Copy + Into<f64> + Serialize {
        fn from_f64(number: f64) -> Self;
    }

    impl Float for f64 {
        fn from_f64(number: f64) -> Self {
            number
        }
    }

    impl Float for f32 {
        fn from_f64(number: f64) -> Self {
            number as f32
        }
    }

    pub(crate) fn serialize<F: Float, S: Serializer>(
        number: &F,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let value: f64 = (*number).into();
        if value.is_finite() || !serializer.is_human_readable() {
            number.serialize(serializer)
        } else {
            serializer.collect_str(&value)
        }
    }

    pub(crate) fn deserialize<'de, F: Float + Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<F, D::Error> {
        if !deserializer.is_human_readable() {
            return F::deserialize(deserializer);
        }
        let value = deserializer.deserialize_any(Number)?;
        let number = F::from_f64(value);
        if value.is_finite() && !number.into().is_finite() {
            return Err(de::Error::custom("the number is too large for 32 bits"));
        }
        Ok(number)
    }

    struct Number;

    impl Visitor<'_> for Number {
        type Value = f64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number, or one of the texts NaN, inf and -inf")
        }

        fn visit_f64<E>(self, number: f64) -> Result<f64, E> {
            Ok(number)
        }

        fn visit_u64<E>(self, number: u64) -> Result<f64, E> {
            Ok(number as f64)
        }

        fn visit_i64<E>(self, number: i64) -> Result<f64, E> {
            Ok(number as f64)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<f64, E> {
            match text {
                "NaN" => Ok(f64::NAN),
                "inf" => Ok(f64::INFINITY),
                "-inf" => Ok(f64::NEG_INFINITY),
                _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
            }
        }
    }
}

struct TextOrBytes;

impl<'de> Visitor<'de> for TextOrBytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or bytes")
    }

    fn visit_str<E>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }

    fn visit_string<E>(self, text: String) -> Result<Vec<u8>, E> {
        Ok(text.into_bytes())
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut octets: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(octet) = octets.next_element()? {
            bytes.push(octet);
        }
        Ok(bytes)
    }
}

/// A text, or bytes where it is not UTF-8 or the format is no text.
impl Serialize for ShortString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text_or_bytes::serialize(self.as_bytes(), serializer)
    }
}

impl<'de> Deserialize<'de> for ShortString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_bytes::deserialize(deserializer).map(ShortString::from)
    }
}

/// A map. Formats whose keys are texts, such as JSON, refuse a key that is not UTF-8; the error names it.
impl Serialize for FieldTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self {
            map.serialize_key(key).map_err(|error| {
                ser::Error::custom(format_args!("the key {key:?} cannot be written: {error}"))
            })?;
            map.serialize_value(value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for FieldTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = FieldTable;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FieldTable, A::Error> {
        // Collected and then sorted at once: one by one, keys in the worst order would take long.
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(FieldTable::from_fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{BytesDeserializer, StrDeserializer, StringDeserializer};
    use serde::de::Error as _;
    use serde::ser::Impossible;

    use super::*;
    use crate::protocol::field_value::{Form, ReceivedNumber, DECIMAL_MOST, TIMESTAMP_MOST};

    type Failed = serde::de::value::Error;

    /// A format that says of nothing what it is, as most that are not for people: one sequence of bytes.
    struct Compact<'a>(&'a [u8]);

    impl<'de> Deserializer<'de> for Compact<'de> {
        type Error = Failed;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
            Err(Failed::custom("it does not say"))
        }

        fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            visitor.visit_bytes(self.0)
        }

        fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            let bytes = self.0.try_into().map_err(Failed::custom)?;
            visitor.visit_f64(f64::from_be_bytes(bytes))
        }

        fn is_human_readable(&self) -> bool {
            false
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 char str string bytes option unit unit_struct newtype_struct seq
            tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    /// A text in a format for people that writes bytes in another way than texts.
    struct Readable<'a>(&'a str);

    impl<'de> Deserializer<'de> for Readable<'de> {
        type Error = Failed;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failed> {
            visitor.visit_borrowed_str(self.0)
        }

        fn deserialize_byte_buf<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Failed> {
            Err(Failed::custom("these are no bytes"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes option unit unit_struct newtype_struct seq
            tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    /// What a value is written as; nothing but texts, bytes and one kind of number is.
    struct Written {
        is_human_readable: bool,
    }

    macro_rules! refused {
        ($($name:ident($($argument:ty),*);)+) => {$(
            fn $name(self, $(_: $argument),*) -> Result<String, Failed> {
                Err(Failed::custom(stringify!($name)))
            }
        )+};
    }

    macro_rules! refused_compounds {
        ($($name:ident($($argument:ty),*) -> $compound:ident;)+) => {$(
            type $compound = Impossible<String, Failed>;

            fn $name(self, $(_: $argument),*) -> Result<Self::$compound, Failed> {
                Err(Failed::custom(stringify!($name)))
            }
        )+};
    }

    impl Serializer for Written {
        type Ok = String;
        type Error = Failed;

        fn serialize_str(self, text: &str) -> Result<String, Failed> {
            Ok(format!("text {text}"))
        }

        fn serialize_bytes(self, bytes: &[u8]) -> Result<String, Failed> {
            Ok(format!("bytes {bytes:?}"))
        }

        fn serialize_f64(self, number: f64) -> Result<String, Failed> {
            Ok(format!("number {number}"))
        }

        fn is_human_readable(&self) -> bool {
            self.is_human_readable
        }

        refused! {
            serialize_bool(bool);
            serialize_i8(i8);
            serialize_i16(i16);
            serialize_i32(i32);
            serialize_i64(i64);
            serialize_u8(u8);
            serialize_u16(u16);
            serialize_u32(u32);
            serialize_u64(u64);
            serialize_f32(f32);
            serialize_char(char);
            serialize_none();
            serialize_unit();
            serialize_unit_struct(&'static str);
            serialize_unit_variant(&'static str, u32, &'static str);
        }

        fn serialize_some<T: ?Sized + Serialize>(self, _: &T) -> Result<String, Failed> {
            Err(Failed::custom("serialize_some"))
        }

        fn serialize_newtype_struct<T: ?Sized + Serialize>(
            self,
            _: &'static str,
            _: &T,
        ) -> Result<String, Failed> {
            Err(Failed::custom("serialize_newtype_struct"))
        }

        fn serialize_newtype_variant<T: ?Sized + Serialize>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<String, Failed> {
            Err(Failed::custom("serialize_newtype_variant"))
        }

        type SerializeMap = Impossible<String, Failed>;

        fn serialize_map(self, length: Option<usize>) -> Result<Self::SerializeMap, Failed> {
            Err(Failed::custom(format_args!("a map of {length:?}")))
        }

        refused_compounds! {
            serialize_seq(Option<usize>) -> SerializeSeq;
            serialize_tuple(usize) -> SerializeTuple;
            serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct;
            serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant;
            serialize_struct(&'static str, usize) -> SerializeStruct;
            serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant;
        }
    }

    #[test]
    fn texts_are_texts_only_where_people_read_them() {
        let (people, programs) = (true, false);
        for (value, is_human_readable, written) in [
            (&b"ab"[..], people, "text ab"),
            (b"ab", programs, "bytes [97, 98]"),
            (b"\xff", people, "bytes [255]"),
            (b"\xff", programs, "bytes [255]"),
        ] {
            let format = Written { is_human_readable };
            let as_written = text_or_bytes::serialize(value, format);
            assert_eq!(as_written.as_deref(), Ok(written));
        }
        let format = Written {
            is_human_readable: people,
        };
        let written = bytes::serialize(b"ab", format);
        assert_eq!(written.as_deref(), Ok("bytes [97, 98]"));
    }

    #[test]
    fn both_are_read_in_whatever_form_they_come() {
        let expected = || Ok(b"ab".to_vec());
        assert_eq!(text_or_bytes::deserialize(Compact(b"ab")), expected());
        assert_eq!(bytes::deserialize(Compact(b"ab")), expected());
        assert_eq!(text_or_bytes::deserialize(Readable("ab")), expected());
        let text: StrDeserializer<'_, Failed> = StrDeserializer::new("ab");
        assert_eq!(text_or_bytes::deserialize(text), expected());
        let owned: StringDeserializer<Failed> = StringDeserializer::new("ab".into());
        assert_eq!(text_or_bytes::deserialize(owned), expected());
        let borrowed: BytesDeserializer<'_, Failed> = BytesDeserializer::new(b"ab");
        assert_eq!(text_or_bytes::deserialize(borrowed), expected());
        assert_eq!(bytes::deserialize(borrowed), expected());
        let read: Result<Vec<u8>, Failed> = TextOrBytes.visit_byte_buf(b"ab".to_vec());
        assert_eq!(read, expected());
        let json = serde_json::json!([97, 98]);
        let read = text_or_bytes::deserialize(&json).map_err(Failed::custom);
        assert_eq!(read, expected());
        let error = text_or_bytes::deserialize(&serde_json::json!(true)).unwrap_err();
        assert!(error.to_string().contains("a text or bytes"), "{error}");
    }

    #[test]
    fn numbers_that_are_not_finite_are_texts_where_people_read_them() {
        let (people, programs) = (true, false);
        for (number, is_human_readable, written) in [
            (7.5, people, "number 7.5"),
            (7.5, programs, "number 7.5"),
            (f64::NAN, people, "text NaN"),
            (f64::INFINITY, people, "text inf"),
            (f64::NEG_INFINITY, people, "text -inf"),
            (f64::NEG_INFINITY, programs, "number -inf"),
        ] {
            let as_written = float::serialize(&number, Written { is_human_readable });
            assert_eq!(as_written.as_deref(), Ok(written));
        }
        let bytes = f64::NEG_INFINITY.to_be_bytes();
        assert_eq!(float::deserialize(Compact(&bytes)), Ok(f64::NEG_INFINITY));
        let read = |json: serde_json::Value| {
            float::deserialize::<f32, _>(json).map_err(|error| error.to_string())
        };
        for (json, number) in [
            (serde_json::json!(7), 7.0),
            (serde_json::json!(-7), -7.0),
            (serde_json::json!(0.5), 0.5),
            (serde_json::json!("inf"), f32::INFINITY),
            (serde_json::json!("-inf"), f32::NEG_INFINITY),
        ] {
            assert_eq!(read(json), Ok(number));
        }
        assert!(read(serde_json::json!("NaN")).unwrap().is_nan());
        for (json, problem) in [
            (serde_json::json!(1e39), "too large for 32 bits"),
            (serde_json::json!("seven"), "NaN, inf and -inf"),
            (serde_json::json!(null), "NaN, inf and -inf"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        let large = serde_json::json!(1e39);
        assert_eq!(float::deserialize::<f64, _>(&large).unwrap(), 1e39);
    }

    #[test]
    fn what_a_field_has_a_variant_for_is_no_received_number() {
        let decimal = |value| Form::Decimal { scale: 2, value };
        for (form, is_received) in [
            (Form::Bool(1), false),
            (Form::Bool(2), true),
            (Form::Long(0), true),
            (Form::Timestamp(TIMESTAMP_MOST), false),
            (Form::Timestamp(TIMESTAMP_MOST + 1), true),
            (decimal(DECIMAL_MOST), false),
            (decimal(DECIMAL_MOST + 1), true),
        ] {
            let number = ReceivedNumber::try_from(form);
            assert_eq!(number.is_ok(), is_received, "{form:?}");
        }
    }

    #[test]
    fn tables_are_maps_and_names_are_texts() {
        let table = FieldTable::from([("b", 2), ("a", 1)]);
        let json = serde_json::json!({"a": {"I32": 1}, "b": {"I32": 2}});
        assert_eq!(serde_json::to_value(&table).unwrap(), json);
        assert_eq!(FieldTable::deserialize(&json).unwrap(), table);
        // Formats without an end of a map need its length.
        let format = Written {
            is_human_readable: false,
        };
        let error = table.serialize(format).unwrap_err();
        assert_eq!(error.to_string(), "a map of Some(2)");
        let error = FieldTable::deserialize(&serde_json::json!(1)).unwrap_err();
        assert!(error.to_string().contains("a table"), "{error}");
        let name = ShortString::from("name");
        let json = serde_json::json!("name");
        assert_eq!(serde_json::to_value(&name).unwrap(), json);
        assert_eq!(ShortString::deserialize(&json).unwrap(), name);
    }
}

//! Just enough of ELF to change a library's name or search path in place: the new text takes the bytes of
//! the old one, so nothing moves. 64-bit little-endian files.

use std::{
    fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

pub const NEEDED: u64 = 1;
pub const SONAME: u64 = 14;
pub const RUNPATH: u64 = 29;
const RPATH: u64 = 15;
const STRTAB: u64 = 5;
const STRSZ: u64 = 10;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const SHT_DYNSYM: u32 = 11;

pub struct Elf {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Tag and value.
    dynamic: Vec<(u64, u64)>,
    /// Where the dynamic strings lie in the file.
    strings: Range<usize>,
}

impl Elf {
    pub fn read(path: &Path) -> io::Result<Elf> {
        let bytes = fs::read(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let mut elf = Elf { path: path.into(), bytes, dynamic: Vec::new(), strings: 0..0 };
        if elf.bytes.get(..6) != Some(b"\x7fELF\x02\x01") {
            return Err(elf.bad("is not a 64-bit little-endian ELF file"));
        }
        elf.load().ok_or_else(|| elf.bad("is a damaged ELF file, or has no dynamic section"))?;
        Ok(elf)
    }

    pub fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, &self.bytes).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// The first text of that tag which ends so.
    pub fn find(&self, tag: u64, end: &str) -> io::Result<Option<&str>> {
        Ok(self.locate(tag, end)?.map(|(_, text)| text))
    }

    /// Puts `new` in place of the first text of that tag which ends so.
    pub fn replace(&mut self, tag: u64, end: &str, new: &str) -> io::Result<()> {
        let found = self.locate(tag, end)?.map(|(start, text)| (start, text.len()));
        let (start, len) = found.ok_or_else(|| self.bad(&format!("has no entry of tag {tag} that ends in {end:?}")))?;
        if new.len() > len {
            return Err(self.bad(&format!("has too little room for {new}")));
        }
        // linkers let one text be the tail of another; that one would change too
        let inside = (start + 1)..=(start + len);
        let named = self.dynamic.iter().filter(|d| [NEEDED, SONAME, RPATH, RUNPATH].contains(&d.0)).map(|d| d.1);
        let all = named.map(Some).chain(self.symbol_names());
        if all.flatten().any(|name| inside.contains(&self.strings.start.saturating_add(name as usize))) {
            return Err(self.bad(&format!("shares the text {end} with another name")));
        }
        let place = &mut self.bytes[start..start + len];
        place.fill(0);
        place[..new.len()].copy_from_slice(new.as_bytes());
        Ok(())
    }

    /// File position and text.
    fn locate(&self, tag: u64, end: &str) -> io::Result<Option<(usize, &str)>> {
        for (_, value) in self.dynamic.iter().filter(|d| d.0 == tag) {
            let text = self.string(*value).ok_or_else(|| self.bad("is a damaged ELF file"))?;
            if text.1.ends_with(end) {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn string(&self, offset: u64) -> Option<(usize, &str)> {
        let start = self.strings.start.checked_add(usize::try_from(offset).ok()?)?;
        let rest = self.bytes.get(start..self.strings.end)?;
        let len = rest.iter().position(|b| *b == 0)?;
        Some((start, std::str::from_utf8(&rest[..len]).ok()?))
    }

    fn load(&mut self) -> Option<()> {
        let (table, size, count) = (self.u64(32)?, self.u16(54)?, self.u16(56)?);
        let heads: Vec<usize> = (0..count.into())
            .map(|i: u64| usize::try_from(table.checked_add(i * u64::from(size))?).ok())
            .collect::<Option<_>>()?;
        for head in &heads {
            if self.u32(*head) != Some(PT_DYNAMIC) {
                continue;
            }
            let start = usize::try_from(self.u64(head + 8)?).ok()?;
            let len = usize::try_from(self.u64(head + 32)?).ok()?;
            for at in (start..start.checked_add(len)?).step_by(16) {
                self.dynamic.push((self.u64(at)?, self.u64(at.checked_add(8)?)?));
            }
        }
        let value = |tag| self.dynamic.iter().find(|d| d.0 == tag).map(|d| d.1);
        let (address, len) = (value(STRTAB)?, value(STRSZ)?);
        for head in heads.iter().filter(|h| self.u32(**h) == Some(PT_LOAD)) {
            let (offset, from, size) = (self.u64(head + 8)?, self.u64(head + 16)?, self.u64(head + 32)?);
            if (from..from.checked_add(size)?).contains(&address) {
                let start = usize::try_from(offset.checked_add(address - from)?).ok()?;
                self.strings = start..start.checked_add(usize::try_from(len).ok()?)?;
                return self.bytes.get(self.strings.clone()).map(|_| ());
            }
        }
        None
    }

    /// Name offsets of the dynamic symbols; empty where the file has no section table.
    fn symbol_names(&self) -> impl Iterator<Item = Option<u64>> + '_ {
        let table = self.u64(40).and_then(|t| usize::try_from(t).ok()).unwrap_or(0);
        let (size, count) = (self.u16(58).unwrap_or(0), self.u16(60).unwrap_or(0));
        let sections = (0..usize::from(count)).filter_map(move |i| table.checked_add(i * usize::from(size)));
        let symbols = sections.filter(move |s| table != 0 && self.u32(s + 4) == Some(SHT_DYNSYM));
        symbols.flat_map(move |s| {
            let start = self.u64(s + 24).and_then(|v| usize::try_from(v).ok()).unwrap_or(0);
            let len = self.u64(s + 32).and_then(|v| usize::try_from(v).ok()).unwrap_or(0);
            (start..start.saturating_add(len).min(self.bytes.len())).step_by(24).map(|at| self.u32(at).map(u64::from))
        })
    }

    fn get<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.get(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.get(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.get(at).map(u64::from_le_bytes)
    }

    fn bad(&self, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", self.path.display()))
    }
}

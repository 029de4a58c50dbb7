//! A disk that can be filled up: a file system of its own in memory, mounted where a broker keeps its data.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, statvfs};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Not in a folder of the broker's: it must not take it for something of its own.
const FILLER: &str = "filler";

/// Unmounted on drop, and all that is on it is gone.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
    data: PathBuf,
}

impl SmallDisk {
    /// Whether this process may mount one.
    pub fn is_possible() -> bool {
        let Ok(folder) = tempfile::tempdir() else { return false };
        Self::mount(&folder.path().join("disk"), 1 << 20).is_ok()
    }

    /// A file system of `bytes` at `at`, with a folder `data` on it.
    pub fn mount(at: &Path, bytes: u64) -> io::Result<Self> {
        std::fs::create_dir_all(at)?;
        let options = CString::new(format!("size={bytes},mode=0700")).map_err(io::Error::other)?;
        rustix::mount::mount("tmpfs", at, "tmpfs", MountFlags::NODEV | MountFlags::NOSUID, options.as_c_str())?;
        let disk = Self { at: at.to_owned(), data: at.join("data") };
        std::fs::create_dir(&disk.data)?;
        Ok(disk)
    }

    /// The folder for the broker.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Takes all space but `left` bytes.
    pub fn fill(&self, left: u64) -> io::Result<()> {
        let filler = File::create(self.at.join(FILLER))?;
        loop {
            let usage = statvfs(&self.at)?;
            let take = (usage.f_bavail * usage.f_frsize).saturating_sub(left);
            if take == 0 {
                return Ok(());
            }
            match rustix::fs::fallocate(&filler, FallocateFlags::empty(), 0, take) {
                // The broker has taken some of it since it was measured.
                Err(Errno::NOSPC) => {}
                taken => return Ok(taken?),
            }
        }
    }

    /// Gives the space back.
    pub fn free(&self) -> io::Result<()> {
        match std::fs::remove_file(self.at.join(FILLER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.at, UnmountFlags::DETACH) {
            tracing::warn!(at = %self.at.display(), %error, "a small disk could not be unmounted");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// `None`, and says so, where this process may not mount one.
    fn mounted(bytes: u64) -> Option<(tempfile::TempDir, SmallDisk)> {
        if !SmallDisk::is_possible() {
            println!("skipped: this process may not mount a file system");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(&folder.path().join("disk"), bytes).unwrap();
        Some((folder, disk))
    }

    #[test]
    fn a_small_disk_can_be_filled_and_freed() {
        let Some((_folder, disk)) = mounted(1 << 20) else { return };
        let file = disk.data().join("file");
        disk.fill(0).unwrap();
        let full = std::fs::write(&file, [7; 8192]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        disk.free().unwrap();
        std::fs::write(&file, [7; 8192]).unwrap();
        drop(disk);
        assert!(!file.exists());
    }

    #[test]
    fn a_small_disk_that_is_written_to_can_be_filled() {
        let Some((_folder, disk)) = mounted(4 << 20) else { return };
        let (file, is_over) = (disk.data().join("file"), AtomicBool::new(false));
        std::thread::scope(|threads| {
            threads.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    // There may be no space for it.
                    let _ = std::fs::write(&file, [7; 65536]);
                    let _ = std::fs::remove_file(&file);
                }
            });
            let filled = (0..500).try_for_each(|_| disk.fill(0).and_then(|()| disk.free()));
            is_over.store(true, Ordering::Relaxed);
            filled.unwrap();
        });
    }
}

//! The simulated folders: names as the process sees them, and as the device has them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::SimRandom;
use super::content::Content;
use crate::disk::DirEntry;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId(u64);

enum Node {
    File(Content),
    Folder(Folder),
}

type Names = BTreeMap<String, NodeId>;

/// One change of a folder; `None` removes the name. The parts of one change go together.
type NameChange = Vec<(String, Option<NodeId>)>;

#[derive(Default)]
struct Folder {
    current: Names,
    durable: Names,
    unsynced: Vec<NameChange>,
}

impl Folder {
    fn change(&mut self, change: NameChange) {
        apply(&mut self.current, &change);
        self.unsynced.push(change);
    }
}

fn apply(names: &mut Names, change: &NameChange) {
    for (name, node) in change {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

pub(super) struct Tree {
    nodes: BTreeMap<NodeId, Node>,
    next: u64,
}

const ROOT: NodeId = NodeId(0);

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or folder", path.display()))
}

/// The names of a path from the root; `.` and `/` aside.
fn names(path: &Path) -> Vec<String> {
    let normal = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    normal.collect()
}

fn split(path: &Path) -> io::Result<(Vec<String>, String)> {
    let mut names = names(path);
    let last = names.pop().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the root can't be changed"))?;
    Ok((names, last))
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { nodes: BTreeMap::from([(ROOT, Node::Folder(Folder::default()))]), next: 1 }
    }

    fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.next);
        self.next += 1;
        self.nodes.insert(id, node);
        id
    }

    fn folder(&mut self, id: NodeId) -> Option<&mut Folder> {
        match self.nodes.get_mut(&id) {
            Some(Node::Folder(folder)) => Some(folder),
            _ => None,
        }
    }

    fn find(&self, path: &Path) -> Option<NodeId> {
        names(path).iter().try_fold(ROOT, |id, name| match self.nodes.get(&id) {
            Some(Node::Folder(folder)) => folder.current.get(name).copied(),
            _ => None,
        })
    }

    fn folder_at(&mut self, path: &Path) -> io::Result<&mut Folder> {
        let id = self.find(path).ok_or_else(|| not_found(path))?;
        self.folder(id).ok_or_else(|| io::Error::new(io::ErrorKind::NotADirectory, path.display().to_string()))
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.find(path).is_some()
    }

    pub(super) fn file_at(&self, path: &Path) -> io::Result<NodeId> {
        let id = self.find(path).ok_or_else(|| not_found(path))?;
        match self.nodes.get(&id) {
            Some(Node::File(_)) => Ok(id),
            _ => Err(io::Error::new(io::ErrorKind::IsADirectory, path.display().to_string())),
        }
    }

    pub(super) fn content(&mut self, file: NodeId) -> &mut Content {
        match self.nodes.get_mut(&file) {
            Some(Node::File(content)) => content,
            // Ids of files come from this tree, and nodes never go.
            _ => unreachable!("{file:?} is a file"),
        }
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        if self.exists(path) {
            return self.file_at(path);
        }
        let (_, name) = split(path)?;
        let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
        self.folder_at(&parent)?;
        let id = self.add(Node::File(Content::default()));
        self.folder_at(&parent)?.change(vec![(name, Some(id))]);
        Ok(id)
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        for name in names(path) {
            let next = at.join(&name);
            if self.exists(&next) {
                self.folder_at(&next)?;
            } else {
                let id = self.add(Node::Folder(Folder::default()));
                self.folder_at(&at)?.change(vec![(name, Some(id))]);
            }
            at = next;
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        if !self.exists(path) {
            return Err(not_found(path));
        }
        let (_, name) = split(path)?;
        self.folder_at(path.parent().unwrap_or(Path::new("/")))?.change(vec![(name, None)]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let id = self.find(from).ok_or_else(|| not_found(from))?;
        let ((from_folder, from_name), (to_folder, to_name)) = (split(from)?, split(to)?);
        if from_folder != to_folder {
            return Err(io::Error::new(io::ErrorKind::CrossesDevices, "simulated renames stay in one folder"));
        }
        let parent = from.parent().unwrap_or(Path::new("/"));
        self.folder_at(parent)?.change(vec![(from_name, None), (to_name, Some(id))]);
        Ok(())
    }

    pub(super) fn read_dir(&mut self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let names = self.folder_at(path)?.current.clone();
        let is_dir = |id: &NodeId| matches!(self.nodes.get(id), Some(Node::Folder(_)));
        Ok(names.iter().map(|(name, id)| DirEntry { name: name.clone(), is_dir: is_dir(id) }).collect())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let folder = self.folder_at(path)?;
        folder.durable = folder.current.clone();
        folder.unsynced.clear();
        Ok(())
    }

    /// Power loss: files lose data, and folders the names whose change was not synced. A folder's changes reach the
    /// device in their order (a journal), so what stays is a prefix of them.
    pub(super) fn lose_unsynced(&mut self, random: &mut SimRandom, all: bool) {
        for node in self.nodes.values_mut() {
            match node {
                Node::File(content) => content.lose_unsynced(random, all),
                Node::Folder(folder) => {
                    let kept = if all { 0 } else { random.below(folder.unsynced.len() as u64 + 1) as usize };
                    let changes = std::mem::take(&mut folder.unsynced);
                    changes[..kept].iter().for_each(|change| apply(&mut folder.durable, change));
                    folder.current = folder.durable.clone();
                }
            }
        }
    }

    fn visit(&self, id: NodeId, path: &Path, files: &mut Vec<(PathBuf, u64)>) {
        match self.nodes.get(&id) {
            Some(Node::File(content)) => files.push((path.to_owned(), content.len())),
            Some(Node::Folder(folder)) => {
                folder.current.iter().for_each(|(name, id)| self.visit(*id, &path.join(name), files));
            }
            None => {}
        }
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        self.visit(ROOT, Path::new("/"), &mut files);
        files.into_iter().map(|(path, _)| path).collect()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let mut files = Vec::new();
        self.visit(ROOT, Path::new("/"), &mut files);
        files.into_iter().map(|(_, len)| len).sum()
    }
}
